/* Part of agent.c, included there once: small things, frames out, requests in. */

/* ---- small things -------------------------------------------------------------------------------------------- */

static void die(const char *what)
{
    fprintf(stderr, "agent: %s: %s\n", what, strerror(errno));
    _exit(70);
}

static void *grown(void *old, size_t size)
{
    void *p = realloc(old, size ? size : 1);
    if (!p) die("memory");
    return p;
}

static u64 now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (u64)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void close_fd(int *fd)
{
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

static ssize_t read_text(int dir, const char *path, char *to, size_t room)
{
    int fd = openat(dir, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return -1;
    size_t have = 0;
    ssize_t n;
    while (have + 1 < room && (n = read(fd, to + have, room - 1 - have)) > 0) have += n;
    close(fd);
    to[have] = 0;
    return have;
}

static int write_text(int dir, const char *path, const char *text)
{
    int fd = openat(dir, path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t n = write(fd, text, strlen(text));
    int kept = errno;
    close(fd);
    errno = kept;
    return n < 0 ? -1 : 0;
}

/* The number after `key` at the start of a line of `text`; -1 when there is none. */
static long long number_after(const char *text, const char *key)
{
    size_t size = strlen(key);
    for (const char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (!strncmp(line, key, size) && (line[size] == ' ' || line[size] == ':')) return atoll(line + size + 1);
    return -1;
}

/* ---- frames out ---------------------------------------------------------------------------------------------- */

static int g_in = -1, g_out = -1, g_machine, g_greeted, g_stop;
static u8 g_outbuf[OUT_CAP];
static size_t g_out_from, g_out_to;

static size_t out_used(void) { return g_out_to - g_out_from; }
static void put32(u8 *p, u32 v) { p[0] = v; p[1] = v >> 8; p[2] = v >> 16; p[3] = v >> 24; }
static u32 get32(const u8 *p) { return p[0] | p[1] << 8 | p[2] << 16 | (u32)p[3] << 24; }

/* Room for a frame of at most BODY_MAX; its body is filled in by the caller, then frame_end. The marks above see to it
 * that there always is room. */
static u8 *frame_begin(void)
{
    if (OUT_CAP - g_out_to < FRAME_MAX) {
        memmove(g_outbuf, g_outbuf + g_out_from, out_used());
        g_out_to -= g_out_from;
        g_out_from = 0;
        if (OUT_CAP - g_out_to < FRAME_MAX) {
            errno = ENOBUFS;
            die("the host does not read");
        }
    }
    return g_outbuf + g_out_to + HEADER;
}

static void frame_end(u8 kind, u32 id, size_t size)
{
    u8 *head = g_outbuf + g_out_to;
    put32(head, size);
    head[4] = kind;
    put32(head + 5, id);
    g_out_to += HEADER + size;
}

struct writer { u8 *p, *end; };

static void w32(struct writer *w, u32 v)
{
    if (w->end - w->p >= 4) put32(w->p, v), w->p += 4;
}
static void w64(struct writer *w, u64 v) { w32(w, v), w32(w, v >> 32); }
static void wbytes(struct writer *w, const char *s, size_t size)
{
    if ((size_t)(w->end - w->p) < size + 4) size = 0;
    w32(w, size);
    memcpy(w->p, s, size);
    w->p += size;
}
static struct writer reply_begin(void)
{
    u8 *body = frame_begin();
    return (struct writer){body, body + BODY_MAX};
}
static void reply_end(struct writer *w, u8 kind, u32 id) { frame_end(kind, id, w->p - (w->end - BODY_MAX)); }

static void send_ok(u32 id)
{
    struct writer w = reply_begin();
    reply_end(&w, A_OK, id);
}

static void send_number(u8 kind, u32 id, u32 number)
{
    struct writer w = reply_begin();
    w32(&w, number);
    reply_end(&w, kind, id);
}

static void send_error(u32 id, int error, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    struct writer w = reply_begin();
    w32(&w, error);
    wbytes(&w, text, n < (int)sizeof text ? n : (int)sizeof text - 1);
    reply_end(&w, A_ERROR, id);
}

/* ---- requests in --------------------------------------------------------------------------------------------- */

struct reader { u8 *p, *end; int bad; };

static u32 r32(struct reader *r)
{
    if (r->end - r->p < 4) { r->bad = 1; return 0; }
    u32 v = get32(r->p);
    r->p += 4;
    return v;
}
static u64 r64(struct reader *r) { u64 low = r32(r); return low | (u64)r32(r) << 32; }

/* A string of the body, ended by a zero where the next length was: read strings before anything else is written. */
static char *rstr(struct reader *r)
{
    u32 size = r32(r);
    if (r->bad || (size_t)(r->end - r->p) < size || memchr(r->p, 0, size)) { r->bad = 1; return ""; }
    /* The length's four bytes are behind us: shift the text over them, which leaves room for the zero. */
    char *s = (char *)r->p - 4;
    memmove(s, r->p, size);
    s[size] = 0;
    r->p += size;
    return s;
}

static char **rlist(struct reader *r)
{
    u32 count = r32(r);
    if (r->bad || count > LIST_MAX) { r->bad = 1; count = 0; }
    char **list = grown(NULL, (count + 3) * sizeof *list); /* room for a HOME and a PATH */
    u32 i = 0;
    for (; i < count && !r->bad; i++) list[i] = rstr(r);
    list[i] = NULL;
    return list;
}
