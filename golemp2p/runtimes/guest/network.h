/* Part of agent.c, included there once: network devices whose packets go to the host, and giving up what made them. */

/* ---- network devices ------------------------------------------------------------------------------------------- */

/* The kernel's own headers are not there under musl. */
#define TUN_SET_INTERFACE 0x400454caUL
#define TUN_PLAIN (0x0001 | 0x1000) /* IFF_TUN | IFF_NO_PI: whole IP packets and nothing else */
#define CAP_VERSION_3 0x20080522
#define PACKETS_A_TURN 16 /* of one device, then the others have their turn */

enum { CAPABILITY_NET_ADMIN = 12 };

static int g_sealed; /* no device is made any more */

/* Containers are given the device. In a machine nobody else ever sees it. */
static int open_tun(void)
{
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0 || !g_machine) return fd;
    if (mknod("/dev/.tun", S_IFCHR | 0600, makedev(10, 200))) return -1;
    fd = open("/dev/.tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    int error = errno;
    unlink("/dev/.tun");
    errno = error;
    return fd;
}

static int set_address(int fd, struct ifreq *device, unsigned long what, u32 address)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr = {htonl(address)}};
    memcpy(&device->ifr_addr, &to, sizeof to);
    return ioctl(fd, what, device);
}

static const char *configure(const char *name, u32 address, u32 prefix, u32 mtu)
{
    struct ifreq device = {0};
    const char *failed = NULL;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    strcpy(device.ifr_name, name);
    if (fd < 0) return "socket";
    if (set_address(fd, &device, SIOCSIFADDR, address)) failed = "address";
    else if (set_address(fd, &device, SIOCSIFNETMASK, prefix ? ~0U << (32 - prefix) : 0)) failed = "mask";
    else {
        device.ifr_mtu = mtu;
        if (ioctl(fd, SIOCSIFMTU, &device)) failed = "mtu";
        else if (ioctl(fd, SIOCGIFFLAGS, &device)) failed = "flags";
        else {
            device.ifr_flags |= IFF_UP;
            if (ioctl(fd, SIOCSIFFLAGS, &device)) failed = "up";
        }
    }
    int error = errno;
    close(fd);
    errno = error;
    return failed;
}

static void on_net(u32 id, struct reader *r)
{
    u32 window = r32(r), number = r32(r), address = r32(r), prefix = r32(r), mtu = r32(r);
    struct ifreq device = {.ifr_flags = TUN_PLAIN};
    if (r->bad || number > 99 || prefix > 32 || mtu < 576 || mtu > BODY_MAX) return send_error(id, EINVAL, "bad request");
    if (g_sealed) return send_error(id, EPERM, "networks come before the first command");
    struct channel *c = open_channel(id, NET, window);
    if (!c) return;
    snprintf(device.ifr_name, sizeof device.ifr_name, "eth%u", number);
    c->fd = open_tun();
    const char *failed = c->fd < 0 ? "/dev/net/tun" : ioctl(c->fd, TUN_SET_INTERFACE, &device) ? "device" : NULL;
    if (!failed) failed = configure(device.ifr_name, address, prefix, mtu);
    if (failed) {
        send_error(id, errno, "cannot make network device eth%u (%s): %s", number, failed, strerror(errno));
        return free_channel(c);
    }
    send_ok(id);
}

/* Packets of the payload to the host. A packet is a frame, so the credit must be enough for any. */
static int may_send_packet(const struct channel *c) { return c->credit >= BODY_MAX; }

static void packets_out(struct channel *c)
{
    for (int i = 0; i < PACKETS_A_TURN && may_send_packet(c) && out_used() < OUT_DATA_MARK; i++) {
        ssize_t n = read(c->fd, frame_begin(), BODY_MAX);
        if (n <= 0) return;
        frame_end(A_DATA, c->id, n);
        charge(c, n);
    }
}

/* What the kernel does not take is lost, as on any wire. */
static void packet_in(struct channel *c, const u8 *data, size_t size)
{
    ssize_t ignored = write(c->fd, data, size);
    (void)ignored;
}

/* ---- sealing --------------------------------------------------------------------------------------------------- */

/* In a container: become `user` for good; root keeps what the host says. In a machine: give up changing networks; what
 * else its agent needs (it mounts and powers off) no payload has. */
static const char *give_up(const struct user *user, u64 kept)
{
    struct { u32 version; int pid; } head = {CAP_VERSION_3, 0};
    struct { u32 effective, permitted, inheritable; } sets[2] = {{0, 0, 0}, {0, 0, 0}};
    if (g_machine) kept = ~0ULL;
    kept &= ~(1ULL << CAPABILITY_NET_ADMIN);
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    for (int cap = 0; cap <= g_last_cap; cap++)
        if (!(kept >> cap & 1)) prctl(PR_CAPBSET_DROP, cap);
    if (!g_machine && user->set &&
        (setgroups(user->group_count, user->groups) || setresgid(user->gid, user->gid, user->gid) ||
         setresuid(user->uid, user->uid, user->uid)))
        return "cannot become the user";
    if (syscall(SYS_capget, &head, sets)) return "cannot read capabilities";
    head.version = CAP_VERSION_3;
    for (int i = 0; i < 2; i++) {
        sets[i].permitted &= (u32)(kept >> 32 * i);
        sets[i].effective &= (u32)(kept >> 32 * i);
        sets[i].inheritable &= g_machine ? (u32)(kept >> 32 * i) : 0;
    }
    if (syscall(SYS_capset, &head, sets)) return "cannot give up capabilities";
    prctl(PR_SET_DUMPABLE, 0); /* another user makes the kernel forget it */
    return NULL;
}

static void append_hosts(char **hosts)
{
    if (!hosts[0]) return;
    mkdir("/etc", 0755);
    int fd = open("/etc/hosts", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0644);
    for (int i = 0; hosts[i] && fd >= 0; i++) dprintf(fd, "%s\n", hosts[i]);
    if (fd < 0) fprintf(stderr, "agent: /etc/hosts: %s\n", strerror(errno));
    close_fd(&fd);
}

static void on_seal(u32 id, struct reader *r)
{
    struct user user = {0};
    u64 kept = r64(r);
    char *name = rstr(r), **hosts = rlist(r);
    const char *trouble = NULL;
    if (r->bad) send_error(id, EINVAL, "bad request");
    else if (*name && (trouble = resolve_user(name, &user)))
        send_error(id, ENOENT, "the image knows no user or group '%.100s'", trouble);
    else {
        if (g_machine) append_hosts(hosts);
        else unlink("/dev/net/tun"); /* where it is a mount it stays, and serves nobody without the capability */
        trouble = give_up(&user, kept);
        g_sealed = 1;
        if (trouble) {
            send_error(id, errno, "%s: %s", trouble, strerror(errno));
            g_stop = 1; /* no payload may run with what we could not give up */
        } else send_ok(id);
    }
    free(hosts);
}
