/* Part of agent.c, included there once: connections that the payload makes to the outside, one by one for the host.
 *
 * Nothing is routed out. Addresses that the host names are made local ("local ... dev lo"), we listen on the agreed
 * ports, and the address that a connection was meant for is that of our end of it. The host decides on each one, and
 * answers questions of DNS.
 */

/* ---- outbound connections -------------------------------------------------------------------------------------- */

#define PORTS_MAX 16
#define ROUTES_MAX 64
#define WAITING_MAX 64 /* connections, and questions, that the host has not decided on */
#define QUERY_MAX 1232
#define NETLINK_ROUTE 0
#define RTM_NEWROUTE 24

enum { OUT_CONNECTION = 1, OUT_QUERY = 2 };
enum { ROUTE_LOCAL = 2, TABLE_MAIN = 254, SCOPE_HOST = 254, PROTOCOL_STATIC = 4, ATTRIBUTE_DST = 1, ATTRIBUTE_OIF = 4 };

static int g_listeners[PORTS_MAX], g_listener_count, g_dns = -1;
static struct { u32 token; int fd; } g_waiting[WAITING_MAX];
static struct { u32 token; struct sockaddr_in from; struct in_addr to; } g_queries[WAITING_MAX];
static u32 g_token, g_query_at;

/* `ip route add local ADDRESS/PREFIX dev lo table main`: what is more exact, such as a private network, goes first. */
static int make_local(u32 address, u32 prefix)
{
    struct {
        u32 size; uint16_t type, flags; u32 serial, port;
        u8 family, dst_size, src_size, tos, table, protocol, scope, kind; u32 route_flags;
        uint16_t dst_length, dst_type; u32 dst;
        uint16_t oif_length, oif_type; u32 oif;
    } ask = {
        .size = sizeof ask, .type = RTM_NEWROUTE, .flags = 0x1 | 0x4 | 0x400, /* request, acknowledge, create */
        .family = AF_INET, .dst_size = prefix, .table = TABLE_MAIN, .protocol = PROTOCOL_STATIC, .scope = SCOPE_HOST,
        .kind = ROUTE_LOCAL, .dst_length = 8, .dst_type = ATTRIBUTE_DST, .dst = htonl(address),
        .oif_length = 8, .oif_type = ATTRIBUTE_OIF, .oif = if_nametoindex("lo"),
    };
    struct { u32 size; uint16_t type, flags; u32 serial, port; int error; u8 rest[512]; } answer;
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0) return -1;
    ssize_t n = send(fd, &ask, sizeof ask, 0) < 0 ? -1 : recv(fd, &answer, sizeof answer, 0);
    int error = n < 0 ? errno : n < 20 ? EPROTO : -answer.error;
    close(fd);
    errno = error;
    return error && error != EEXIST ? -1 : 0;
}

static int listen_on(u32 port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (void *)&at, sizeof at) || listen(fd, WAITING_MAX)) close_fd(&fd);
    return fd;
}

static int open_dns(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(53)};
    int on = 1, fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof on);
    if (bind(fd, (void *)&at, sizeof at)) close_fd(&fd);
    return fd;
}

static void on_outbound(u32 id, struct reader *r)
{
    u32 window = r32(r), resolver = r32(r), ports = r32(r);
    const char *failed = NULL;
    if (g_sealed || g_dns >= 0) return send_error(id, EPERM, "outbound comes once, before the first command");
    struct channel *c = open_channel(id, OUTBOUND, window);
    if (!c) return;
    if (ports > PORTS_MAX) r->bad = 1;
    for (u32 i = 0; i < ports && !r->bad && !failed; i++) {
        int fd = listen_on(r32(r));
        if (fd < 0) failed = "cannot listen";
        else g_listeners[g_listener_count++] = fd;
    }
    u32 routes = failed ? 0 : r32(r);
    if (routes > ROUTES_MAX) r->bad = 1;
    for (u32 i = 0; i < routes && !r->bad && !failed; i++) {
        u32 address = r32(r), prefix = r32(r);
        if (prefix > 32 || make_local(address, prefix)) failed = "cannot make a route";
    }
    if (!failed && (g_dns = open_dns()) < 0) failed = "cannot listen for DNS";
    if (r->bad || failed) {
        send_error(id, failed ? errno : EINVAL, "%s: %s", failed ? failed : "bad request", strerror(errno));
        return free_channel(c);
    }
    if (g_machine) { /* engines write it themselves */
        char text[64];
        struct in_addr at = {htonl(resolver)};
        mkdir("/etc", 0755);
        unlink("/etc/resolv.conf"); /* it may be a link to what some service of a real system makes */
        snprintf(text, sizeof text, "nameserver %s\n", inet_ntoa(at));
        write_new("/etc/resolv.conf", text);
    }
    for (int i = 0; i < WAITING_MAX; i++) g_waiting[i].fd = -1;
    send_ok(id);
}

static int free_place(void)
{
    for (int i = 0; i < WAITING_MAX; i++)
        if (g_waiting[i].fd < 0) return i;
    return -1;
}

static void tell_connection(struct channel *c, int listener)
{
    struct sockaddr_in meant;
    socklen_t size = sizeof meant;
    int at = free_place(), fd = at < 0 ? -1 : accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    if (getsockname(fd, (void *)&meant, &size)) {
        close(fd);
        return;
    }
    g_waiting[at].fd = fd;
    g_waiting[at].token = ++g_token;
    struct writer w = reply_begin();
    w32(&w, OUT_CONNECTION);
    w32(&w, g_token);
    w32(&w, ntohl(meant.sin_addr.s_addr));
    w32(&w, ntohs(meant.sin_port));
    reply_end(&w, A_DATA, c->id);
    charge(c, COST_MIN);
}

static void tell_query(struct channel *c)
{
    char control[128];
    u8 query[QUERY_MAX];
    struct iovec part = {query, sizeof query};
    struct sockaddr_in from;
    struct msghdr m = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &part, .msg_iovlen = 1,
                       .msg_control = control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(g_dns, &m, 0);
    if (n <= 0 || m.msg_flags & MSG_TRUNC) return;
    u32 place = g_query_at++ % WAITING_MAX; /* the oldest gives way: who asked asks again */
    g_queries[place].from = from;
    g_queries[place].to.s_addr = INADDR_ANY;
    g_queries[place].token = ++g_token;
    for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h))
        if (h->cmsg_level == IPPROTO_IP && h->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;
            memcpy(&info, CMSG_DATA(h), sizeof info);
            g_queries[place].to = info.ipi_addr;
        }
    struct writer w = reply_begin();
    w32(&w, OUT_QUERY);
    w32(&w, g_token);
    memcpy(w.p, query, n);
    w.p += n;
    reply_end(&w, A_DATA, c->id);
    charge(c, n + 8);
}

/* From where it was asked: a resolver takes no answer from elsewhere. */
static void answer_query(u32 token, u8 *data, size_t size)
{
    for (int i = 0; i < WAITING_MAX; i++) {
        if (!g_queries[i].token || g_queries[i].token != token) continue;
        char control[CMSG_SPACE(sizeof(struct in_pktinfo))] = {0};
        struct iovec part = {data, size};
        struct msghdr m = {.msg_name = &g_queries[i].from, .msg_namelen = sizeof g_queries[i].from, .msg_iov = &part,
                           .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
        struct cmsghdr *h = CMSG_FIRSTHDR(&m);
        struct in_pktinfo info = {.ipi_spec_dst = g_queries[i].to};
        h->cmsg_level = IPPROTO_IP;
        h->cmsg_type = IP_PKTINFO;
        h->cmsg_len = CMSG_LEN(sizeof info);
        memcpy(CMSG_DATA(h), &info, sizeof info);
        sendmsg(g_dns, &m, MSG_DONTWAIT);
        g_queries[i].token = 0;
        return;
    }
}

static int taken_connection(u32 token)
{
    for (int i = 0; i < WAITING_MAX; i++)
        if (g_waiting[i].fd >= 0 && g_waiting[i].token == token) {
            int fd = g_waiting[i].fd;
            g_waiting[i].fd = -1;
            return fd;
        }
    return -1;
}

/* The host's word: no to a connection, an answer to a question. */
static void outbound_word(u8 *data, size_t size)
{
    struct reader r = {data, data + size, 0};
    u32 what = r32(&r), token = r32(&r);
    if (r.bad) return;
    if (what == OUT_QUERY) return answer_query(token, r.p, r.end - r.p);
    struct linger at_once = {1, 0};
    int fd = taken_connection(token);
    if (fd < 0) return;
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once); /* a reset: nothing was there */
    close(fd);
}

/* The host's yes: the connection becomes a channel like those that the host makes. */
static void on_accept(u32 id, struct reader *r)
{
    u32 window = r32(r), token = r32(r);
    int fd = r->bad ? -1 : taken_connection(token);
    if (fd < 0) return send_error(id, ENOENT, "no such connection");
    struct channel *c = open_channel(id, CONNECT, window);
    if (!c) {
        close(fd);
        return;
    }
    c->fd = fd;
    c->buffer = grown(NULL, INBOUND_CREDIT);
    send_ok(id);
}

static void outbound_wants(struct channel *c)
{
    int room = free_place() >= 0;
    for (int i = 0; i < g_listener_count && room; i++) want(g_listeners[i], POLLIN, c, i);
    want(g_dns, POLLIN, c, PORTS_MAX);
}

static void on_outbound_ready(struct channel *c, int part)
{
    if (!may_send(c) || out_used() >= OUT_DATA_MARK) return;
    if (part == PORTS_MAX) tell_query(c);
    else tell_connection(c, g_listeners[part]);
}
