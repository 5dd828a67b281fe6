/* The guest agent: runs commands and moves files for a host that speaks protocols/guest.md over one byte stream.
 *
 * Two lives. As /init of a virtual machine it mounts the image and speaks over a virtio-serial port. As
 * `agent serve` (main process of a container) it speaks over its stdin and stdout. It needs nothing but the kernel:
 * static, no file of the image is read but /etc/passwd and /etc/group when a user is given by name.
 *
 * One thread, one poll loop. Every run has a keeper: a child of ours that is the subreaper of the command, so that all
 * the command leaves behind stays below the keeper in the process tree and can be found, counted and killed, whatever
 * sessions it makes. Whatever turns up as our own child without being a keeper lost its keeper by murder: it is killed.
 *
 * The host is trusted, the payload is not: we cannot be traced (not dumpable), and as PID 1 not killed by it.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/types.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define VERSION 1
#define MAGIC "G2PAGENT"
#define HEADER 9                       /* size u32, kind u8, id u32 */
#define FRAME_MAX 65536                /* with header */
#define BODY_MAX (FRAME_MAX - HEADER)
#define REQUEST_MAX (1 << 20)          /* of a request in parts */
#define IN_CAP (2 * FRAME_MAX)
#define OUT_CAP (1 << 20)
#define OUT_DATA_MARK (256 << 10)      /* no more data is queued beyond this, */
#define OUT_REQUEST_MARK (512 << 10)   /* and no request is taken beyond this */
#define COST_MIN 512                   /* what a data frame costs at least, so that the host's queue is bounded too */
#define INBOUND_CREDIT (256 << 10)     /* what the host may send on a put or connect before we credit more */
#define PIPE_BYTES (256 << 10)
#define CHANNELS_MAX 128
#define LINGERING_MAX 64               /* ended runs whose background processes still hold their pipes */
#define LIST_MAX 4096                  /* argv, env, volumes */
#define WATCH_MS 200                   /* how often CPU time is summed up for a limit */
#define KILL_AGAIN_MS 10
#define FIRST_WORD_S 60                /* a port that the host has not opened yet reads as closed */

enum { /* host to agent */
    H_HELLO = 1, H_SETUP, H_EXEC, H_KILL, H_CREDIT, H_DATA, H_END, H_CLOSE, H_PUT, H_GET, H_MKDIR, H_SYMLINK, H_LIST,
    H_STAT, H_CONNECT, H_USAGE, H_SHUTDOWN, H_PART
};
enum { /* agent to host */
    A_HELLO = 64, A_OK, A_ERROR, A_STDOUT, A_STDERR, A_DATA, A_END, A_EXITED, A_CREDIT
};
enum { EXIT_OOM = 1, EXIT_CPU = 2, EXIT_KILLED = 4 };
enum { SETUP_SCRATCH = 1 };

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;

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

/* ---- channels ------------------------------------------------------------------------------------------------ */

enum { RUN, PUT, GET, LIST, CONNECT };

struct channel {
    struct channel *next;
    u32 id;
    int kind;
    u32 credit;             /* bytes that we may still send */
    int fd;                 /* put, get: the file; connect: the socket; run: the keeper's status pipe */
    /* run */
    pid_t keeper;
    int pipe[2];            /* stdout, stderr of the command; -1 after its end */
    long left[2];           /* bytes still to be sent after the exit; -1 while the command lives */
    int started;            /* OK is sent; no output before */
    int exited, told;       /* the command has ended; the host knows */
    int discard, kill;
    u32 flags;
    int code;
    u64 cpu_us, maxrss_bytes, cpu_limit_us;
    long long oom_before;
    int cgroup;             /* directory */
    /* put */
    int dir;
    char *part, *name;
    /* list */
    DIR *listing;
    /* connect */
    u8 *buffer;
    size_t from, to;
    int connecting, ending, read_closed;
};

static struct channel *g_channels;

static int may_send(const struct channel *c) { return c->credit >= COST_MIN; }
static void charge(struct channel *c, size_t size) { c->credit -= size < COST_MIN ? COST_MIN : size; }
static u64 g_watch_at;
static int g_self;

static struct channel *find(u32 id)
{
    for (struct channel *c = g_channels; c; c = c->next)
        if (c->id == id && !c->told) return c;
    return NULL;
}

static struct channel *open_channel(u32 id, int kind, u32 credit)
{
    int count = 0;
    for (struct channel *c = g_channels; c; c = c->next) count += !c->told;
    if (count >= CHANNELS_MAX || find(id)) {
        send_error(id, EBUSY, "there are %d requests under way", count);
        return NULL;
    }
    struct channel *c = grown(NULL, sizeof *c);
    memset(c, 0, sizeof *c);
    *c = (struct channel){.id = id, .kind = kind, .credit = credit, .fd = -1, .pipe = {-1, -1}, .left = {-1, -1},
                          .dir = -1, .cgroup = -1, .next = g_channels};
    return g_channels = c;
}

static void free_channel(struct channel *c)
{
    struct channel **at = &g_channels;
    while (*at != c) at = &(*at)->next;
    *at = c->next;
    if (c->part) {
        unlinkat(c->dir, c->part, 0);
        free(c->part);
    }
    free(c->name);
    free(c->buffer);
    if (c->listing) closedir(c->listing);
    close_fd(&c->fd);
    close_fd(&c->dir);
    close_fd(&c->pipe[0]);
    close_fd(&c->pipe[1]);
    close_fd(&c->cgroup);
    free(c);
}

/* ---- control groups: version 2 in our machine, whatever is mounted in a container ----------------------------- */

static int g_payload_group = -1; /* directory of the group of all runs; machine only */

static long long group_number(const char *machine_file, const char *key, const char *v2, const char *v1)
{
    char text[4096];
    const char *files[] = {v2, v1};
    if (g_payload_group >= 0) {
        if (read_text(g_payload_group, machine_file, text, sizeof text) < 0) return -1;
        return key ? number_after(text, key) : atoll(text);
    }
    for (int i = 0; i < 2; i++)
        if (read_text(AT_FDCWD, files[i], text, sizeof text) >= 0) {
            long long v = key && (i == 0 || !strcmp(key, "oom_kill")) ? number_after(text, key) : atoll(text);
            if (v >= 0) return v;
        }
    return -1;
}

static long long oom_kills(void)
{
    return group_number("memory.events", "oom_kill", "/sys/fs/cgroup/memory.events",
                        "/sys/fs/cgroup/memory/memory.oom_control");
}

static u64 memory_peak(void)
{
    long long peak = group_number("memory.peak", NULL, "/sys/fs/cgroup/memory.peak",
                                  "/sys/fs/cgroup/memory/memory.max_usage_in_bytes");
    return peak < 0 ? 0 : peak;
}

/* ---- the process tree ---------------------------------------------------------------------------------------- */

struct process { pid_t pid, parent; char state; u64 ticks; int mine; };
static struct process *g_table;
static int g_table_size;

static void scan_processes(void)
{
    static int room;
    g_table_size = 0;
    DIR *proc = opendir("/proc");
    if (!proc) return;
    struct dirent *e;
    while ((e = readdir(proc))) {
        if (e->d_name[0] < '1' || e->d_name[0] > '9') continue;
        char path[64], text[1024];
        snprintf(path, sizeof path, "/proc/%.20s/stat", e->d_name);
        if (read_text(AT_FDCWD, path, text, sizeof text) <= 0) continue;
        char *after = strrchr(text, ')');
        if (!after) continue;
        struct process p = {.pid = atoi(e->d_name)};
        unsigned long long u, s, cu, cs;
        if (sscanf(after + 1, " %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %llu %llu", &p.state, &p.parent,
                   &u, &s, &cu, &cs) != 6)
            continue;
        p.ticks = u + s + cu + cs;
        if (g_table_size == room) g_table = grown(g_table, (room = room ? 2 * room : 256) * sizeof *g_table);
        g_table[g_table_size++] = p;
    }
    closedir(proc);
}

static int is_keeper(pid_t pid)
{
    for (struct channel *c = g_channels; c; c = c->next)
        if (c->kind == RUN && c->keeper == pid) return 1;
    return 0;
}

/* Mark all below `root` (a keeper), or for root 0 the strays: our children that are no keepers, and all below them. */
static void mark_tree(pid_t root)
{
    int changed = 1;
    for (int i = 0; i < g_table_size; i++) {
        struct process *p = &g_table[i];
        p->mine = root ? p->parent == root : p->parent == g_self && !is_keeper(p->pid);
    }
    while (changed) {
        changed = 0;
        for (int i = 0; i < g_table_size; i++)
            for (int k = 0; !g_table[i].mine && k < g_table_size; k++)
                if (g_table[k].mine && g_table[k].pid == g_table[i].parent) g_table[i].mine = changed = 1;
    }
}

/* Stop first, so that nothing forks away while we kill; a stopped process still counts for its process limit. Returns
 * how many are left alive. */
static int kill_tree(pid_t root)
{
    int alive = 0;
    for (int pass = 0; pass < 20; pass++) {
        int fresh = 0;
        scan_processes();
        mark_tree(root);
        for (int i = 0; i < g_table_size; i++)
            if (g_table[i].mine && !strchr("TtZX", g_table[i].state)) fresh += !kill(g_table[i].pid, SIGSTOP);
        if (!fresh) break;
    }
    for (int i = 0; i < g_table_size; i++)
        if (g_table[i].mine && g_table[i].state != 'Z') alive += !kill(g_table[i].pid, SIGKILL);
    return alive;
}

static void kill_run(struct channel *c)
{
    if (c->cgroup >= 0) write_text(c->cgroup, "cgroup.kill", "1");
    if (c->keeper > 0) {
        kill(c->keeper, SIGCONT); /* a payload of our own user may have stopped it */
        kill_tree(c->keeper);
    }
}

/* CPU time of all that the run ever started, but what ended unseen below a process that does not wait. */
static u64 run_cpu_us(struct channel *c)
{
    u64 ticks = 0;
    mark_tree(c->keeper);
    for (int i = 0; i < g_table_size; i++)
        if (g_table[i].mine || g_table[i].pid == c->keeper) ticks += g_table[i].ticks;
    return ticks * (1000000 / sysconf(_SC_CLK_TCK));
}

static void watch_cpu(void)
{
    scan_processes();
    for (struct channel *c = g_channels; c; c = c->next)
        if (c->kind == RUN && !c->exited && c->cpu_limit_us && !c->kill && run_cpu_us(c) > c->cpu_limit_us) {
            c->flags |= EXIT_CPU;
            c->kill = 1;
        }
}

/* ---- users --------------------------------------------------------------------------------------------------- */

struct user { uid_t uid; gid_t gid; int set; char home[256]; gid_t groups[32]; int group_count; };
static struct user g_default_user;

/* Field `n` of a line "a:b:c". */
static int field(const char *line, int n, char *to, size_t room)
{
    for (; n; n--) {
        line = strpbrk(line, ":\n");
        if (!line || *line == '\n') return -1;
        line++;
    }
    size_t size = strcspn(line, ":\n");
    if (size >= room) return -1;
    memcpy(to, line, size);
    to[size] = 0;
    return 0;
}

static int is_number(const char *s) { return *s && strspn(s, "0123456789") == strlen(s) && strlen(s) <= 10; }

/* "user[:group]", each by name or number, as the image's files have them. Returns what is unknown, or NULL. */
static const char *resolve_user(char *spec, struct user *user)
{
    static char passwd[256 << 10], group[256 << 10];
    char name[256], number[16], home[256];
    memset(user, 0, sizeof *user);
    user->set = 1;
    strcpy(user->home, "/");
    if (read_text(AT_FDCWD, "/etc/passwd", passwd, sizeof passwd) < 0) passwd[0] = 0;
    if (read_text(AT_FDCWD, "/etc/group", group, sizeof group) < 0) group[0] = 0;
    char *colon = strchr(spec, ':'), *who = spec, *of = colon ? colon + 1 : "";
    if (colon) *colon = 0;
    int found = 0;
    char login[256] = "";
    for (char *line = passwd; line && *line && !found; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        if (field(line, 0, name, sizeof name) || field(line, 2, number, sizeof number)) continue;
        if (strcmp(is_number(who) ? number : name, who)) continue;
        found = 1;
        user->uid = strtoul(number, NULL, 10);
        strcpy(login, name);
        if (!field(line, 3, number, sizeof number)) user->gid = strtoul(number, NULL, 10);
        if (!field(line, 5, home, sizeof home) && home[0] == '/') strcpy(user->home, home);
    }
    if (!found && !is_number(who)) return who;
    if (!found) user->uid = strtoul(who, NULL, 10);
    if (*of && is_number(of)) user->gid = strtoul(of, NULL, 10);
    int known = !*of || is_number(of);
    for (char *line = group; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        if (field(line, 0, name, sizeof name) || field(line, 2, number, sizeof number)) continue;
        gid_t gid = strtoul(number, NULL, 10);
        if (*of && !strcmp(name, of)) user->gid = gid, known = 1;
        char members[4096], *rest = members, *member;
        if (*of || !*login || field(line, 3, members, sizeof members)) continue;
        while ((member = strsep(&rest, ",")))
            if (!strcmp(member, login) && user->group_count < 32) user->groups[user->group_count++] = gid;
    }
    return known ? NULL : of;
}

/* ---- runs ---------------------------------------------------------------------------------------------------- */

enum { S_STARTED = 1, S_FAILED, S_EXITED };
enum { AT_USER = 1, AT_DIRECTORY, AT_PROGRAM, AT_LIMITS, AT_FORK };

struct status { u32 kind, stage; int error, status; u64 cpu_us, maxrss_bytes; };

struct order {
    char **argv, **env, *cwd;
    struct user user;
    u32 open_files, processes;
    u64 cpu_ms, file_bytes;
};

static int g_last_cap = 63;
/* What a payload in the machine keeps of root's capabilities: chown, dac_override, fowner, fsetid, kill, setgid,
 * setuid, setpcap, net_bind_service, net_raw, sys_chroot, audit_write, setfcap. Containers have a like list. */
static const u64 g_kept_caps = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 |
                               1 << 13 | 1 << 18 | 1 << 29 | 1ULL << 31;

static void make_directories(char *path)
{
    for (char *at = path + 1; *at; at++)
        if (*at == '/') {
            *at = 0;
            mkdir(path, 0755);
            *at = '/';
        }
    mkdir(path, 0755);
}

/* Only ever lowers: a hard limit that is lower already stays. */
static int limit(int what, u64 soft, u64 hard)
{
    struct rlimit now;
    if (getrlimit(what, &now)) return -1;
    struct rlimit r = {soft < now.rlim_max ? soft : now.rlim_max, hard < now.rlim_max ? hard : now.rlim_max};
    return setrlimit(what, &r);
}

static void command_failed(int to, u32 stage, int error)
{
    struct status s = {.kind = S_FAILED, .stage = stage, .error = error};
    ssize_t ignored = write(to, &s, sizeof s);
    (void)ignored;
    _exit(127);
}

static void run_program(struct order *o)
{
    const char *path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *name = o->argv[0];
    for (char **e = o->env; *e; e++)
        if (!strncmp(*e, "PATH=", 5)) path = *e + 5;
    if (strchr(name, '/')) {
        execve(name, o->argv, o->env);
        /* There is such a file, but no such interpreter. */
        if (errno == ENOENT && !access(name, F_OK)) errno = ELIBBAD;
        return;
    }
    int worst = ENOENT;
    while (*path) {
        size_t size = strcspn(path, ":");
        char full[4096];
        if (size && size + strlen(name) + 2 < sizeof full) {
            snprintf(full, sizeof full, "%.*s/%s", (int)size, path, name);
            execve(full, o->argv, o->env);
            if (errno == ENOENT && !access(full, F_OK)) errno = ELIBBAD;
            if (errno != ENOENT && errno != ENOTDIR) worst = errno;
        }
        path += size + (path[size] == ':');
    }
    errno = worst;
}

/* The command itself, before it becomes its program. `failed` closes with exec. */
static void become_command(struct order *o, int out, int err, int failed, int cgroup)
{
    setsid();
    if (cgroup >= 0) write_text(cgroup, "cgroup.procs", "0");
    if (dup2(out, 1) < 0 || dup2(err, 2) < 0) command_failed(failed, AT_FORK, errno);
    dup2(failed, 3);
    fcntl(3, F_SETFD, FD_CLOEXEC);
    if (syscall(SYS_close_range, 4, ~0U, 0))
        for (int fd = 4; fd < 4096; fd++) close(fd);
    failed = 3;
    /* Nothing of the agent is open any more, so others may look now; needed to write our own oom_score_adj. */
    prctl(PR_SET_DUMPABLE, 1);
    write_text(AT_FDCWD, "/proc/self/oom_score_adj", "500");
    prctl(PR_SET_DUMPABLE, 0);
    if (g_machine)
        for (int cap = 0; cap <= g_last_cap; cap++)
            if (!(g_kept_caps >> cap & 1)) prctl(PR_CAPBSET_DROP, cap);
    limit(RLIMIT_CORE, 0, 0);
    if (o->file_bytes && limit(RLIMIT_FSIZE, o->file_bytes, o->file_bytes)) command_failed(failed, AT_LIMITS, errno);
    if (o->open_files && limit(RLIMIT_NOFILE, o->open_files, o->open_files)) command_failed(failed, AT_LIMITS, errno);
    if (o->cpu_ms) {
        /* A net below watch_cpu: the kernel counts by ticks here, which were seen to be a fifth off. */
        u64 s = (o->cpu_ms + 999) / 1000 + 1;
        if (limit(RLIMIT_CPU, s, s + 1)) command_failed(failed, AT_LIMITS, errno);
    }
    if (chdir(o->cwd) && errno == ENOENT) { /* before we lose the right to make it */
        make_directories(o->cwd);
        if (o->user.set && geteuid() == 0 && chown(o->cwd, o->user.uid, o->user.gid)) command_failed(failed, AT_DIRECTORY, errno);
    }
    if (o->user.set && (geteuid() != o->user.uid || getegid() != o->user.gid)) {
        if ((geteuid() == 0 && setgroups(o->user.group_count, o->user.groups)) ||
            setresgid(o->user.gid, o->user.gid, o->user.gid) || setresuid(o->user.uid, o->user.uid, o->user.uid))
            command_failed(failed, AT_USER, errno);
    }
    /* Per user, so after the change of user. */
    if (o->processes && limit(RLIMIT_NPROC, o->processes, o->processes)) command_failed(failed, AT_LIMITS, errno);
    if (chdir(o->cwd)) command_failed(failed, AT_DIRECTORY, errno);
    signal(SIGPIPE, SIG_DFL);
    for (int s = 1; s < 32; s++) signal(s, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    run_program(o);
    command_failed(failed, AT_PROGRAM, errno);
}

/* Between the agent and the command: the place where all orphans of the run end up. Ends when none is left. */
static void keep(struct order *o, int out, int err, int status_to, int cgroup)
{
    int failed[2];
    struct status s = {.kind = S_FAILED, .stage = AT_FORK};
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != g_self) _exit(1);
    setsid(); /* a kill(0) of nobody's reaches us */
    if (pipe2(failed, O_CLOEXEC)) goto broken;
    pid_t child = fork();
    if (child < 0) goto broken;
    if (child == 0) become_command(o, out, err, failed[1], cgroup);
    /* Our copies of everything else go, so that pipes and sockets end when their users do. */
    failed[0] = fcntl(failed[0], F_DUPFD, 10); /* away from 3 and 4 */
    status_to = fcntl(status_to, F_DUPFD, 10);
    dup2(failed[0], 3);
    dup2(status_to, 4);
    if (syscall(SYS_close_range, 5, ~0U, 0))
        for (int fd = 5; fd < 4096; fd++) close(fd);
    failed[0] = 3;
    status_to = 4;
    if (read(failed[0], &s, sizeof s) != sizeof s) s = (struct status){.kind = S_STARTED};
    close(failed[0]);
    if (write(status_to, &s, sizeof s) != sizeof s) _exit(1);
    if (s.kind == S_FAILED) _exit(0);
    for (;;) {
        int status;
        pid_t pid = wait4(-1, &status, 0, NULL);
        if (pid < 0 && errno != EINTR) _exit(0);
        if (pid != child) continue;
        struct rusage used;
        getrusage(RUSAGE_CHILDREN, &used);
        s = (struct status){.kind = S_EXITED, .status = status};
        s.cpu_us = (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000ULL + used.ru_utime.tv_usec +
                   used.ru_stime.tv_usec;
        s.maxrss_bytes = used.ru_maxrss * 1024ULL;
        if (write(status_to, &s, sizeof s) != sizeof s) _exit(1);
        close(status_to);
    }
broken:
    s.error = errno;
    _exit(write(status_to, &s, sizeof s) != sizeof s);
}

/* A run's own group below the payload's, so that all of it can be killed at once. */
static int make_group(u32 id)
{
    char name[32];
    snprintf(name, sizeof name, "run-%u", id);
    if (g_payload_group < 0 || mkdirat(g_payload_group, name, 0755)) return -1;
    return openat(g_payload_group, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static void drop_oldest_lingering(void)
{
    struct channel *oldest = NULL;
    int count = 0;
    for (struct channel *c = g_channels; c; c = c->next)
        if (c->told && (c->pipe[0] >= 0 || c->pipe[1] >= 0)) oldest = c, count++; /* new ones are put in front */
    if (count >= LINGERING_MAX) {
        close_fd(&oldest->pipe[0]);
        close_fd(&oldest->pipe[1]);
    }
}

static void on_exec(u32 id, struct reader *r)
{
    struct order o = {0};
    u32 window = r32(r);
    o.cpu_ms = r64(r);
    o.file_bytes = r64(r);
    o.open_files = r32(r);
    o.processes = r32(r);
    o.cwd = rstr(r);
    char *user = rstr(r);
    o.argv = rlist(r);
    o.env = rlist(r);
    int out[2] = {-1, -1}, err[2] = {-1, -1}, status[2] = {-1, -1};
    struct channel *c = NULL;
    if (r->bad || !o.argv[0] || !*o.argv[0]) {
        send_error(id, EINVAL, "no command");
        goto done;
    }
    if (o.cwd[0] != '/') o.cwd = "/";
    o.user = g_default_user;
    const char *unknown = *user ? resolve_user(user, &o.user) : NULL;
    if (unknown) {
        send_error(id, ENOENT, "the image knows no user or group '%.100s'", unknown);
        goto done;
    }
    char home[300];
    int has_home = 0, count = 0;
    for (; o.env[count]; count++) has_home |= !strncmp(o.env[count], "HOME=", 5);
    if (!has_home) {
        snprintf(home, sizeof home, "HOME=%s", o.user.set ? o.user.home : g_default_user.home);
        o.env[count] = home;
        o.env[count + 1] = NULL;
    }
    drop_oldest_lingering();
    if (!(c = open_channel(id, RUN, window))) goto done;
    if (pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC) || pipe2(status, O_CLOEXEC)) {
        send_error(id, errno, "cannot make pipes: %s", strerror(errno));
        goto failed;
    }
    c->pipe[0] = out[0];
    c->pipe[1] = err[0];
    c->fd = status[0];
    for (int i = 0; i < 2; i++) {
        fcntl(c->pipe[i], F_SETFL, O_NONBLOCK);
        fcntl(c->pipe[i], F_SETPIPE_SZ, PIPE_BYTES);
    }
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    c->cgroup = make_group(id);
    c->cpu_limit_us = o.cpu_ms * 1000;
    c->oom_before = oom_kills();
    c->keeper = fork();
    if (c->keeper == 0) keep(&o, out[1], err[1], status[1], c->cgroup);
    if (c->keeper < 0) {
        send_error(id, errno, "cannot start a process: %s", strerror(errno));
        goto failed;
    }
    c = NULL;
failed:
    if (c) free_channel(c);
    close_fd(&out[1]);
    close_fd(&err[1]);
    close_fd(&status[1]);
done:
    free(o.argv);
    free(o.env);
}

static void run_ended(struct channel *c, struct status *s)
{
    c->exited = 1;
    c->code = WIFSIGNALED(s->status) ? -WTERMSIG(s->status) : WEXITSTATUS(s->status);
    c->cpu_us = s->cpu_us;
    c->maxrss_bytes = s->maxrss_bytes;
    /* A shell reports its child's death by SIGXCPU as a status of its own. */
    if (c->code == -SIGXCPU || (c->cpu_limit_us && c->code == 128 + SIGXCPU)) c->flags |= EXIT_CPU;
    if (oom_kills() > c->oom_before && c->oom_before >= 0) c->flags |= EXIT_OOM;
    /* What is in the pipes now is what the command wrote before it ended, and perhaps some of its children's. */
    for (int i = 0; i < 2; i++) {
        int have = 0;
        if (c->pipe[i] >= 0) ioctl(c->pipe[i], FIONREAD, &have);
        c->left[i] = c->discard ? 0 : have;
    }
}

static void run_failed(struct channel *c, struct status *s)
{
    static const char *what[] = {"", "cannot become the user", "cannot enter the working directory", NULL,
                                 "cannot set the limits", "cannot start a process"};
    const char *why = strerror(s->error);
    if (s->stage == AT_PROGRAM && s->error == ENOENT) why = "no such program";
    if (s->stage == AT_PROGRAM && s->error == ENOEXEC) why = "no program (a script needs a first line with #!)";
    if (s->stage == AT_PROGRAM && s->error == ELIBBAD) why = "the interpreter or loader that it names is not there";
    if (s->stage == AT_PROGRAM) send_error(c->id, s->error, "%s", why);
    else send_error(c->id, s->error, "%s: %s", what[s->stage <= AT_FORK ? s->stage : 0], why);
    c->told = c->exited = 1;
}

static void on_status(struct channel *c)
{
    struct status s;
    ssize_t n = read(c->fd, &s, sizeof s);
    if (n < 0 && errno == EAGAIN) return;
    if (n == sizeof s && s.kind == S_STARTED) {
        c->started = 1;
        return send_ok(c->id);
    }
    if (n == sizeof s && s.kind == S_FAILED) run_failed(c, &s);
    else if (n == sizeof s) run_ended(c, &s);
    else if (!c->started && !c->told) {
        send_error(c->id, EIO, "it was killed before it started");
        c->told = c->exited = 1;
    } else if (!c->exited) { /* the keeper was killed */
        s = (struct status){.status = SIGKILL};
        c->flags |= EXIT_KILLED;
        run_ended(c, &s);
    }
    close_fd(&c->fd);
}

/* One read of a pipe of a run, to the host or, when nobody wants it any more, to nowhere. */
static void on_output(struct channel *c, int i)
{
    int drop = c->told || c->discard || (c->exited && c->left[i] == 0);
    static u8 nowhere[FRAME_MAX];
    size_t room = BODY_MAX;
    u8 *to = drop ? nowhere : frame_begin();
    if (!drop && room > c->credit) room = c->credit;
    if (!drop && c->exited && room > (size_t)c->left[i]) room = c->left[i];
    ssize_t n = read(c->pipe[i], to, room);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
        close_fd(&c->pipe[i]);
        c->left[i] = 0;
        return;
    }
    if (drop) return;
    frame_end(i ? A_STDERR : A_STDOUT, c->id, n);
    charge(c, n);
    if (c->exited) c->left[i] -= n;
}

static void tell_exit(struct channel *c)
{
    if (!c->exited || c->told || (!c->discard && (c->left[0] > 0 || c->left[1] > 0))) return;
    struct writer w = reply_begin();
    w32(&w, c->flags | (c->kill ? EXIT_KILLED : 0));
    w32(&w, c->code);
    w64(&w, c->cpu_us);
    w64(&w, c->maxrss_bytes);
    w64(&w, memory_peak());
    reply_end(&w, A_EXITED, c->id);
    c->told = 1;
}

/* ---- files: `root` is a volume; neither the path nor a link in it leads out ------------------------------------ */

struct how { u64 flags, mode, resolve; };
#define BENEATH 8         /* RESOLVE_BENEATH */
#define NO_MAGIC 2        /* RESOLVE_NO_MAGICLINKS */
#define O_ALWAYS (O_CLOEXEC | O_NOFOLLOW)

static int g_no_openat2;

/* Old kernels and old seccomp filters: component by component, no links at all. */
static int open_walking(int root, const char *path, int flags)
{
    char name[256];
    int here = dup(root);
    while (here >= 0) {
        size_t size = strcspn(path, "/");
        const char *rest = path + size + strspn(path + size, "/");
        if (size >= sizeof name || (size == 2 && !memcmp(path, "..", 2))) { errno = EXDEV; break; }
        memcpy(name, path, size);
        name[size] = 0;
        int next = openat(here, size ? name : ".", *rest ? O_PATH | O_DIRECTORY | O_ALWAYS : flags | O_ALWAYS);
        int kept = errno;
        close(here);
        errno = kept;
        if (!*rest) return next;
        here = next;
        path = rest;
    }
    if (here >= 0) close(here), errno = EXDEV;
    return -1;
}

static int open_beneath(int root, const char *path, int flags)
{
    if (!*path) path = ".";
    if (!g_no_openat2) {
        struct how how = {flags | O_CLOEXEC, 0, BENEATH | NO_MAGIC};
        int fd;
        do fd = syscall(SYS_openat2, root, path, &how, sizeof how);
        while (fd < 0 && errno == EAGAIN); /* a rename came between */
        if (fd >= 0 || (errno != ENOSYS && errno != EPERM)) return fd;
        g_no_openat2 = 1;
    }
    return open_walking(root, path, flags);
}

static int open_root(const char *root) { return open(root, O_PATH | O_DIRECTORY | O_CLOEXEC); }

static void own(int fd)
{
    if (g_default_user.set && geteuid() == 0 && fchown(fd, g_default_user.uid, g_default_user.gid) < 0) return;
}

/* The directory `path`, made with all above it when missing. */
static int make_beneath(int root, char *path, u32 mode)
{
    int here = open_beneath(root, ".", O_PATH | O_DIRECTORY);
    for (char *at = path; *at && here >= 0;) {
        size_t size = strcspn(at, "/");
        char *end = at + size, kept = *end;
        *end = 0;
        int last = !kept || !end[strspn(end + 1, "/") + 1];
        int next = open_beneath(root, path, O_PATH | O_DIRECTORY);
        if (next < 0 && errno == ENOENT) {
            if (mkdirat(here, at, last ? mode : 0755) == 0) {
                int made = openat(here, at, O_RDONLY | O_DIRECTORY | O_ALWAYS);
                if (made >= 0) {
                    own(made);
                    if (last) fchmod(made, mode & 0777);
                    close(made);
                }
            }
            next = open_beneath(root, path, O_PATH | O_DIRECTORY);
        }
        int error = errno;
        *end = kept;
        close(here);
        errno = error;
        here = next;
        at = end + strspn(end, "/");
    }
    return here;
}

/* Splits "a/b/c" into "a/b" and "c"; the last must be a name. */
static char *split(char *path, char **parent)
{
    char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    *parent = slash ? path : "";
    if (slash) *slash = 0;
    return !*name || !strcmp(name, ".") || !strcmp(name, "..") || strlen(name) > 255 ? NULL : name;
}

static void random_name(char *to, size_t room)
{
    static u32 number;
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    snprintf(to, room, ".%lx%lx-%x.part", (unsigned long)t.tv_sec, (unsigned long)t.tv_nsec, number++);
}

static void send_file_error(u32 id)
{
    const char *why = strerror(errno);
    if (errno == EXDEV || errno == ELOOP) why = "a symbolic link on the way leads out or in circles";
    send_error(id, errno, "%s", why);
}

static void on_put(u32 id, struct reader *r)
{
    char *root = rstr(r), *path = rstr(r), *parent, *name;
    u32 mode = r32(r);
    if (r->bad || !(name = split(path, &parent))) return send_error(id, EINVAL, "no file name");
    struct channel *c = open_channel(id, PUT, 0);
    if (!c) return;
    char part[80];
    random_name(part, sizeof part);
    int top = open_root(root);
    c->dir = top < 0 ? -1 : make_beneath(top, parent, 0755);
    c->fd = c->dir < 0 ? -1 : openat(c->dir, part, O_WRONLY | O_CREAT | O_EXCL | O_ALWAYS, 0600);
    if (c->fd < 0) {
        send_file_error(id);
        close_fd(&top);
        return free_channel(c);
    }
    close(top);
    fchmod(c->fd, mode & 0777);
    own(c->fd);
    c->part = strdup(part);
    c->name = strdup(name);
}

static void put_data(struct channel *c, const u8 *data, size_t size)
{
    size_t all = size;
    while (size) {
        ssize_t n = write(c->fd, data, size);
        if (n < 0) {
            send_file_error(c->id);
            return free_channel(c);
        }
        data += n;
        size -= n;
    }
    send_number(A_CREDIT, c->id, all);
}

static void put_end(struct channel *c)
{
    if (renameat(c->dir, c->part, c->dir, c->name)) send_file_error(c->id);
    else {
        free(c->part);
        c->part = NULL;
        send_ok(c->id);
    }
    free_channel(c);
}

static char type_of(u32 mode) { return S_ISREG(mode) ? 'f' : S_ISDIR(mode) ? 'd' : S_ISLNK(mode) ? 'l' : 'o'; }

static void write_facts(struct writer *w, struct stat *s)
{
    w32(w, type_of(s->st_mode));
    w32(w, s->st_mode & 07777);
    w64(w, s->st_size);
    w64(w, s->st_mtime < 0 ? 0 : s->st_mtime);
}

static void on_get_or_list(u32 id, struct reader *r, int kind)
{
    u32 window = r32(r);
    char *root = rstr(r), *path = rstr(r);
    struct stat s;
    if (r->bad) return send_error(id, EINVAL, "bad request");
    struct channel *c = open_channel(id, kind, window);
    if (!c) return;
    int top = open_root(root);
    if (top >= 0) c->fd = open_beneath(top, path, O_RDONLY | O_NONBLOCK | (kind == LIST ? O_DIRECTORY : 0));
    int error = errno;
    close_fd(&top);
    errno = error;
    if (c->fd < 0 || fstat(c->fd, &s)) {
        send_file_error(id);
        return free_channel(c);
    }
    if (kind == GET && !S_ISREG(s.st_mode)) {
        send_error(id, S_ISDIR(s.st_mode) ? EISDIR : EINVAL, "no regular file");
        return free_channel(c);
    }
    if (kind == LIST && !(c->listing = fdopendir(dup(c->fd)))) {
        send_file_error(id);
        return free_channel(c);
    }
    struct writer w = reply_begin();
    write_facts(&w, &s);
    reply_end(&w, A_OK, id);
}

static void more_file(struct channel *c)
{
    u8 *to = frame_begin();
    ssize_t n = read(c->fd, to, c->credit < BODY_MAX ? c->credit : BODY_MAX);
    if (n > 0) {
        frame_end(A_DATA, c->id, n);
        charge(c, n);
        return;
    }
    if (n < 0) send_file_error(c->id);
    else frame_end(A_END, c->id, 0);
    free_channel(c);
}

static void more_list(struct channel *c)
{
    struct writer w = reply_begin();
    struct dirent *e = NULL;
    char target[4096];
    while (w.end - w.p > 5000 && (e = readdir(c->listing))) {
        struct stat s;
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        if (fstatat(c->fd, e->d_name, &s, AT_SYMLINK_NOFOLLOW)) continue; /* gone meanwhile */
        ssize_t n = S_ISLNK(s.st_mode) ? readlinkat(c->fd, e->d_name, target, sizeof target) : 0;
        write_facts(&w, &s);
        wbytes(&w, e->d_name, strlen(e->d_name));
        wbytes(&w, target, n < 0 ? 0 : n);
    }
    size_t size = w.p - (w.end - BODY_MAX);
    reply_end(&w, A_DATA, c->id);
    charge(c, size);
    if (!e) {
        frame_begin();
        frame_end(A_END, c->id, 0);
        free_channel(c);
    }
}

static void on_make(u32 id, struct reader *r, int kind)
{
    char *root = rstr(r), *path = rstr(r), *parent, *name = NULL, part[80];
    char *target = kind == H_SYMLINK ? rstr(r) : NULL;
    u32 mode = kind == H_MKDIR ? r32(r) : 0;
    if (r->bad || (target && !(name = split(path, &parent)))) return send_error(id, EINVAL, "bad request");
    int top = open_root(root), made = top < 0 ? -1 : make_beneath(top, target ? parent : path, target ? 0755 : mode);
    int good = made >= 0;
    if (good && target) {
        random_name(part, sizeof part);
        good = !symlinkat(target, made, part) && !renameat(made, part, made, name);
    }
    if (good) send_ok(id);
    else send_file_error(id);
    close_fd(&made);
    close_fd(&top);
}

static void on_stat(u32 id, struct reader *r)
{
    char *root = rstr(r), *path = rstr(r);
    struct stat s;
    if (r->bad) return send_error(id, EINVAL, "bad request");
    int top = open_root(root), fd = top < 0 ? -1 : open_beneath(top, path, O_PATH | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &s)) send_file_error(id);
    else {
        struct writer w = reply_begin();
        write_facts(&w, &s);
        reply_end(&w, A_OK, id);
    }
    close_fd(&fd);
    close_fd(&top);
}

/* ---- connections to the payload's loopback --------------------------------------------------------------------- */

static void on_connect(u32 id, struct reader *r)
{
    u32 window = r32(r), port = r32(r);
    if (r->bad || !port || port > 65535) return send_error(id, EINVAL, "no port");
    struct channel *c = open_channel(id, CONNECT, window);
    if (!c) return;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || (connect(c->fd, (void *)&to, sizeof to) && errno != EINPROGRESS)) {
        send_error(id, errno, "%s", strerror(errno));
        return free_channel(c);
    }
    c->connecting = 1;
    c->buffer = grown(NULL, INBOUND_CREDIT);
}

static void broken(struct channel *c, int error)
{
    send_error(c->id, error, "%s", strerror(error));
    free_channel(c);
}

static void socket_data(struct channel *c, const u8 *data, size_t size)
{
    if (c->connecting || c->ending || size > INBOUND_CREDIT - (c->to - c->from)) return broken(c, EPROTO);
    if (size > INBOUND_CREDIT - c->to) {
        memmove(c->buffer, c->buffer + c->from, c->to - c->from);
        c->to -= c->from;
        c->from = 0;
    }
    memcpy(c->buffer + c->to, data, size);
    c->to += size;
}

static void on_socket(struct channel *c, short events)
{
    if (c->connecting) {
        int error = 0;
        socklen_t size = sizeof error;
        if (!(events & (POLLOUT | POLLERR | POLLHUP))) return;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) return broken(c, error);
        c->connecting = 0;
        return send_ok(c->id);
    }
    if (c->to > c->from) {
        ssize_t n = send(c->fd, c->buffer + c->from, c->to - c->from, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN) return broken(c, errno);
        if (n > 0) {
            c->from += n;
            send_number(A_CREDIT, c->id, n);
        }
    }
    if (c->ending == 1 && c->to == c->from) {
        shutdown(c->fd, SHUT_WR);
        c->ending = 2;
    }
    if (!c->read_closed && may_send(c) && (events & (POLLIN | POLLHUP | POLLERR)) && out_used() < OUT_DATA_MARK) {
        u8 *to = frame_begin();
        ssize_t n = read(c->fd, to, c->credit < BODY_MAX ? c->credit : BODY_MAX);
        if (n < 0 && errno == EAGAIN) return;
        if (n < 0) return broken(c, errno);
        if (n == 0) {
            c->read_closed = 1;
            return frame_end(A_END, c->id, 0);
        }
        frame_end(A_DATA, c->id, n);
        charge(c, n);
    }
}

/* ---- the virtual machine --------------------------------------------------------------------------------------- */

static int g_scratch = -1; /* the writable disk's root directory */

static void load_modules(void)
{
    static char list[8192];
    if (read_text(AT_FDCWD, "/modules/list", list, sizeof list) <= 0) return;
    char *rest = list, *name;
    while ((name = strsep(&rest, "\n"))) {
        char path[300];
        if (!*name) continue;
        snprintf(path, sizeof path, "/modules/%.200s", name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST))
            fprintf(stderr, "agent: module %s: %s\n", name, strerror(errno));
        close_fd(&fd);
    }
}

static int open_port(void)
{
    struct timespec pause = {0, 2000000};
    for (int tries = 0; tries < 5000; tries++) {
        DIR *dev = opendir("/dev");
        struct dirent *e;
        while (dev && (e = readdir(dev)))
            if (!strncmp(e->d_name, "vport", 5)) {
                int fd = openat(dirfd(dev), e->d_name, O_RDWR | O_CLOEXEC | O_NONBLOCK);
                closedir(dev);
                return fd;
            }
        if (dev) closedir(dev);
        nanosleep(&pause, NULL);
    }
    errno = ENODEV;
    return -1;
}

static void boot(void)
{
    g_machine = 1;
    mkdir("/proc", 0755);
    mkdir("/sys", 0755);
    mkdir("/dev", 0755);
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    mount("sys", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, NULL);
    mount("dev", "/dev", "devtmpfs", MS_NOSUID | MS_NOEXEC, NULL);
    int console = open("/dev/console", O_RDWR | O_NOCTTY);
    for (int fd = 0; fd < 3 && console >= 0; fd++) dup2(console, fd);
    if (console > 2) close(console);
    load_modules();
    g_in = g_out = open_port();
    if (g_in < 0) die("no virtio-serial port");
}

static int step(u32 id, int result, const char *what)
{
    if (result < 0) send_error(id, errno, "%s: %s", what, strerror(errno));
    return result < 0;
}

static int make_devices(void)
{
    static const struct { const char *name; int major, minor; } nodes[] = {
        {"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}};
    static const char *links[][2] = {{"/proc/self/fd", "/dev/fd"}, {"/proc/self/fd/0", "/dev/stdin"},
        {"/proc/self/fd/1", "/dev/stdout"}, {"/proc/self/fd/2", "/dev/stderr"}, {"pts/ptmx", "/dev/ptmx"}};
    mkdir("/dev", 0755);
    if (mount("tmpfs", "/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "size=64k,mode=755")) return -1;
    for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++) {
        char path[32];
        snprintf(path, sizeof path, "/dev/%s", nodes[i].name);
        if (mknod(path, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor))) return -1;
        chmod(path, 0666);
    }
    for (size_t i = 0; i < sizeof links / sizeof *links; i++)
        if (symlink(links[i][0], links[i][1])) return -1;
    mkdir("/dev/pts", 0755);
    mkdir("/dev/shm", 01777);
    mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620");
    return mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
}

static void limit_group(u64 memory_bytes, u32 processes, u32 cpu_percent)
{
    char text[64];
    mkdir("/cgroup", 0755);
    if (mount("cgroup2", "/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL)) return;
    write_text(AT_FDCWD, "/cgroup/cgroup.subtree_control", "+memory +pids +cpu");
    mkdir("/cgroup/payload", 0755);
    g_payload_group = open("/cgroup/payload", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    umount2("/cgroup", MNT_DETACH); /* the payload never sees it; our descriptor goes on working */
    snprintf(text, sizeof text, "%llu", (unsigned long long)memory_bytes);
    if (memory_bytes) write_text(g_payload_group, "memory.max", text);
    snprintf(text, sizeof text, "%u", processes);
    if (processes) write_text(g_payload_group, "pids.max", text);
    snprintf(text, sizeof text, "%u 100000", cpu_percent * 1000);
    if (cpu_percent) write_text(g_payload_group, "cpu.max", text);
}

static void loopback_up(void)
{
    struct ifreq lo = {.ifr_name = "lo"};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return;
    if (!ioctl(fd, SIOCGIFFLAGS, &lo)) {
        lo.ifr_flags |= IFF_UP;
        ioctl(fd, SIOCSIFFLAGS, &lo);
    }
    close(fd);
}

static void write_new(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, text, strlen(text)) < 0) fprintf(stderr, "agent: %s: %s\n", path, strerror(errno));
    close_fd(&fd);
}

/* From the initramfs into the image: read-only squashfs below, the scratch disk (or memory) above. */
static int enter_image(u32 id, u32 flags, char *hostname)
{
    char text[600];
    mkdir("/image", 0755);
    mkdir("/scratch", 0755);
    mkdir("/root", 0755);
    if (step(id, mount("/dev/vda", "/image", "squashfs", MS_RDONLY | MS_NODEV, NULL), "cannot mount the image"))
        return -1;
    int mounted = flags & SETUP_SCRATCH ? mount("/dev/vdb", "/scratch", "ext4", MS_NODEV | MS_NOATIME, "discard,noinit_itable")
                                        : mount("scratch", "/scratch", "tmpfs", MS_NODEV, "mode=755");
    if (step(id, mounted, "cannot mount the scratch disk")) return -1;
    mkdir("/scratch/upper", 0755);
    mkdir("/scratch/work", 0755);
    mkdir("/scratch/volumes", 0755);
    g_scratch = open("/scratch/volumes", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (step(id, mount("overlay", "/root", "overlay", MS_NODEV,
                       "lowerdir=/image,upperdir=/scratch/upper,workdir=/scratch/work"), "cannot mount the overlay"))
        return -1;
    if (step(id, chdir("/root") || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/") ? -1 : 0,
             "cannot enter the image"))
        return -1;
    mkdir("/proc", 0755);
    mkdir("/sys", 0755);
    if (!mkdir("/tmp", 01777)) chmod("/tmp", 01777);
    if (step(id, mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL), "cannot mount /proc") ||
        step(id, mount("sys", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, NULL), "cannot mount /sys") ||
        step(id, make_devices(), "cannot make /dev"))
        return -1;
    mount("/proc/sys", "/proc/sys", NULL, MS_BIND, NULL);
    mount(NULL, "/proc/sys", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    if (*hostname) {
        if (sethostname(hostname, strlen(hostname)) < 0) fprintf(stderr, "agent: hostname: %s\n", strerror(errno));
        mkdir("/etc", 0755);
        snprintf(text, sizeof text, "127.0.0.1\tlocalhost\n127.0.0.1\t%.255s\n", hostname);
        write_new("/etc/hosts", text);
        snprintf(text, sizeof text, "%.255s\n", hostname);
        write_new("/etc/hostname", text);
    }
    return 0;
}

/* A volume is a directory of the scratch disk, mounted on its path: the payload can neither move nor remove it. */
static int make_volume(int number, char *path)
{
    char name[16], source[64];
    make_directories(path);
    if (g_scratch < 0) return access(path, F_OK);
    snprintf(name, sizeof name, "%d", number);
    mkdirat(g_scratch, name, 0755);
    int fd = openat(g_scratch, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return -1;
    own(fd);
    snprintf(source, sizeof source, "/proc/self/fd/%d", fd);
    int result = mount(source, path, NULL, MS_BIND, NULL);
    int error = errno;
    close(fd);
    errno = error;
    return result;
}

static void on_setup(u32 id, struct reader *r)
{
    u32 flags = r32(r), processes, cpu_percent;
    u64 memory_bytes = r64(r);
    processes = r32(r);
    cpu_percent = r32(r);
    char *hostname = rstr(r), *user = rstr(r), **volumes = rlist(r);
    const char *unknown;
    if (r->bad) {
        send_error(id, EINVAL, "bad request");
        goto done;
    }
    if (g_machine) {
        loopback_up();
        limit_group(memory_bytes, processes, cpu_percent);
        if (enter_image(id, flags, hostname)) goto done;
    }
    if (*user && (unknown = resolve_user(user, &g_default_user))) {
        send_error(id, ENOENT, "the image knows no user or group '%.100s'", unknown);
        goto done;
    }
    for (int i = 0; volumes[i]; i++)
        if (make_volume(i, volumes[i])) {
            send_error(id, errno, "cannot make volume %.200s: %s", volumes[i], strerror(errno));
            goto done;
        }
    send_ok(id);
done:
    free(volumes);
}

/* ---- the loop -------------------------------------------------------------------------------------------------- */

static void on_usage(u32 id)
{
    int alive = 0;
    long long cpu = group_number("cpu.stat", "usage_usec", "/sys/fs/cgroup/cpu.stat", NULL);
    long long ns = cpu < 0 ? group_number("none", NULL, "none", "/sys/fs/cgroup/cpuacct/cpuacct.usage") : -1;
    scan_processes();
    for (struct channel *c = g_channels; c; c = c->next) {
        if (c->kind != RUN || c->keeper <= 0) continue;
        mark_tree(c->keeper);
        for (int i = 0; i < g_table_size; i++) alive += g_table[i].mine && g_table[i].state != 'Z';
    }
    long long now = group_number("memory.current", NULL, "/sys/fs/cgroup/memory.current",
                                 "/sys/fs/cgroup/memory/memory.usage_in_bytes");
    long long kills = oom_kills();
    struct writer w = reply_begin();
    w64(&w, cpu >= 0 ? cpu : ns >= 0 ? ns / 1000 : 0);
    w64(&w, now < 0 ? 0 : now);
    w64(&w, memory_peak());
    w32(&w, alive);
    w32(&w, kills < 0 ? 0 : kills);
    reply_end(&w, A_OK, id);
}

static void greet(u32 id, struct reader *r)
{
    struct utsname u;
    char facts[512];
    if (r->end - r->p < 12 || memcmp(r->p, MAGIC, 8) || get32(r->p + 8) != VERSION) {
        send_error(id, EPROTO, "this agent speaks version %d", VERSION);
        g_stop = 1;
        return;
    }
    g_greeted = 1;
    uname(&u);
    snprintf(facts, sizeof facts, "kernel=%.64s machine=%.64s pid=%d", u.release, u.machine, (int)getpid());
    struct writer w = reply_begin();
    memcpy(w.p, MAGIC, 8);
    w.p += 8;
    w32(&w, VERSION);
    wbytes(&w, facts, strlen(facts));
    reply_end(&w, A_HELLO, id);
}

static void on_channel(u8 kind, u32 id, u8 *body, size_t size)
{
    struct channel *c = find(id);
    if (!c) return; /* it ended while this was under way */
    u32 number = size >= 4 ? get32(body) : 0;
    if (kind == H_CREDIT) c->credit = number > UINT32_MAX - c->credit ? UINT32_MAX : c->credit + number;
    else if (kind == H_KILL && c->kind == RUN) {
        c->kill = 1;
        c->discard |= number & 1;
    } else if (kind == H_DATA && c->kind == PUT) put_data(c, body, size);
    else if (kind == H_DATA && c->kind == CONNECT) socket_data(c, body, size);
    else if (kind == H_END && c->kind == PUT) put_end(c);
    else if (kind == H_END && c->kind == CONNECT && !c->ending) c->ending = 1;
    else if (kind == H_CLOSE && c->kind == RUN) c->kill = c->discard = 1;
    else if (kind == H_CLOSE) free_channel(c);
}

static u8 *g_part;
static size_t g_part_size;
static u32 g_part_id;

static void on_frame(u8 kind, u32 id, u8 *body, size_t size)
{
    struct reader r = {body, body + size, 0};
    if (!g_greeted && kind != H_HELLO) {
        g_stop = 1;
        return;
    }
    if (kind == H_PART) {
        if (g_part_id != id) g_part_size = 0;
        g_part_id = id;
        if (g_part_size + size > REQUEST_MAX) {
            g_stop = 1;
            return;
        }
        g_part = grown(g_part, REQUEST_MAX + FRAME_MAX);
        memcpy(g_part + g_part_size, body, size);
        g_part_size += size;
        return;
    }
    if (g_part_size && g_part_id == id && kind == H_EXEC) {
        memcpy(g_part + g_part_size, body, size);
        r = (struct reader){g_part, g_part + g_part_size + size, 0};
        g_part_size = 0;
    }
    switch (kind) {
    case H_HELLO: return greet(id, &r);
    case H_SETUP: return on_setup(id, &r);
    case H_EXEC: return on_exec(id, &r);
    case H_PUT: return on_put(id, &r);
    case H_GET: return on_get_or_list(id, &r, GET);
    case H_LIST: return on_get_or_list(id, &r, LIST);
    case H_MKDIR:
    case H_SYMLINK: return on_make(id, &r, kind);
    case H_STAT: return on_stat(id, &r);
    case H_CONNECT: return on_connect(id, &r);
    case H_USAGE: return on_usage(id);
    case H_SHUTDOWN:
        send_ok(id);
        g_stop = 1;
        return;
    case H_KILL:
    case H_CREDIT:
    case H_DATA:
    case H_END:
    case H_CLOSE: return on_channel(kind, id, body, size);
    default: g_stop = 1; /* not our protocol: nothing that follows can be trusted */
    }
}

static u8 g_inbuf[IN_CAP];
static size_t g_in_size;

/* Frames that are whole, as far as there is room for answers. */
static void take_frames(void)
{
    size_t at = 0;
    while (g_in_size - at >= HEADER && !g_stop && out_used() < OUT_REQUEST_MARK) {
        u32 size = get32(g_inbuf + at);
        if (size > BODY_MAX) {
            g_stop = 1;
            break;
        }
        if (g_in_size - at < HEADER + size) break;
        on_frame(g_inbuf[at + 4], get32(g_inbuf + at + 5), g_inbuf + at + HEADER, size);
        at += HEADER + size;
    }
    memmove(g_inbuf, g_inbuf + at, g_in_size - at);
    g_in_size -= at;
}

static void read_host(void)
{
    static u64 since;
    ssize_t n = read(g_in, g_inbuf + g_in_size, IN_CAP - g_in_size);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0 && g_machine && !g_greeted) { /* the host has not opened its end yet */
        struct timespec pause = {0, 5000000};
        if (!since) since = now_ms();
        nanosleep(&pause, NULL);
        g_stop = now_ms() - since > FIRST_WORD_S * 1000;
        return;
    }
    if (n <= 0) g_stop = 1;
    else g_in_size += n;
}

static void write_host(void)
{
    while (out_used()) {
        ssize_t n = write(g_out, g_outbuf + g_out_from, out_used());
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno != EAGAIN) g_stop = 2;
        if (n <= 0) return;
        g_out_from += n;
        if (!out_used()) g_out_from = g_out_to = 0;
    }
}

static void reap(int signals)
{
    struct signalfd_siginfo info[16];
    int status, strays = 0;
    pid_t pid;
    if (read(signals, info, sizeof info) < 0) return;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        for (struct channel *c = g_channels; c; c = c->next)
            if (c->kind == RUN && c->keeper == pid) {
                c->keeper = -1;
                strays |= WIFSIGNALED(status);
            }
    while (strays && kill_tree(0)) waitpid(-1, &status, WNOHANG);
}

/* After every turn: what has ended goes. */
static void tidy(void)
{
    int killing = 0;
    for (struct channel *c = g_channels, *next; c; c = next) {
        next = c->next;
        if (c->kind != RUN) continue;
        if (c->kill && !c->exited) kill_run(c), killing = 1;
        else if (c->kill && c->keeper > 0) kill_run(c), killing = 1;
        if (c->discard && c->exited) c->left[0] = c->left[1] = 0;
        if (!c->kill || c->keeper <= 0) tell_exit(c); /* a killed run has ended when all of it has */
        if (!c->told || c->keeper > 0) continue;
        if (c->cgroup >= 0) {
            char name[32];
            snprintf(name, sizeof name, "run-%u", c->id);
            unlinkat(g_payload_group, name, AT_REMOVEDIR);
        }
        free_channel(c);
    }
    if (killing) g_watch_at = now_ms() + KILL_AGAIN_MS;
}

static struct pollfd *g_polls;
static struct { struct channel *c; u32 id; int part; } *g_polled; /* id: to see whether it is still there */
static int g_poll_count;

static void want(int fd, short events, struct channel *c, int part)
{
    static int room;
    if (g_poll_count == room) {
        room = room ? 2 * room : 64;
        g_polls = grown(g_polls, room * sizeof *g_polls);
        g_polled = grown(g_polled, room * sizeof *g_polled);
    }
    g_polls[g_poll_count] = (struct pollfd){fd, events, 0};
    g_polled[g_poll_count].c = c;
    g_polled[g_poll_count].part = part;
    g_poll_count++;
}

static int still_there(struct channel *c)
{
    for (struct channel *k = g_channels; k; k = k->next)
        if (k == c) return 1;
    return 0;
}

/* Returns the timeout in ms. */
static int what_to_poll(int signals)
{
    int may_queue = out_used() < OUT_DATA_MARK, watch = 0, busy = 0;
    g_poll_count = 0;
    want(signals, POLLIN, NULL, 0);
    want(out_used() < OUT_REQUEST_MARK && g_in_size < IN_CAP ? g_in : -1, POLLIN, NULL, 0);
    want(out_used() ? g_out : -1, POLLOUT, NULL, 0);
    for (struct channel *c = g_channels; c; c = c->next) {
        if (c->kind == RUN) {
            int drop = c->told || c->discard;
            if (c->fd >= 0) want(c->fd, POLLIN, c, 2);
            for (int i = 0; i < 2; i++)
                if (c->started && c->pipe[i] >= 0 && (drop || (c->exited && !c->left[i]) || (may_queue && may_send(c))))
                    want(c->pipe[i], POLLIN, c, i);
            watch |= c->cpu_limit_us && !c->exited;
        } else if (c->kind == CONNECT) {
            short events = c->connecting || c->to > c->from ? POLLOUT : 0;
            if (!c->connecting && !c->read_closed && may_send(c) && may_queue) events |= POLLIN;
            if (events) want(c->fd, events, c, 0);
            busy |= c->ending == 1 && c->to == c->from && !c->connecting;
        } else if ((c->kind == GET && may_send(c)) || (c->kind == LIST && c->credit >= BODY_MAX)) busy |= may_queue;
    }
    if (g_in_size >= HEADER && out_used() < OUT_REQUEST_MARK &&
        g_in_size >= HEADER + (size_t)get32(g_inbuf)) busy = 1;
    if (busy) return 0;
    u64 now = now_ms();
    if (watch && g_watch_at <= now) g_watch_at = now + WATCH_MS;
    return g_watch_at > now ? (int)(g_watch_at - now) : -1;
}

static void turn(int signals)
{
    int timeout = what_to_poll(signals);
    if (poll(g_polls, g_poll_count, timeout) < 0 && errno != EINTR) die("poll");
    if (g_polls[0].revents) reap(signals);
    if (g_polls[1].revents) read_host();
    take_frames();
    for (int i = 3; i < g_poll_count; i++) {
        struct channel *c = g_polled[i].c;
        int part = g_polled[i].part;
        if (!g_polls[i].revents || !still_there(c)) continue;
        if (c->kind == CONNECT) on_socket(c, g_polls[i].revents);
        else if (part == 2) on_status(c);
        else if (c->pipe[part] >= 0 && (c->told || c->discard || (c->exited && !c->left[part]) ||
                                        (may_send(c) && out_used() < OUT_DATA_MARK)))
            on_output(c, part);
    }
    for (struct channel *c = g_channels, *next; c; c = next) {
        next = c->next;
        if (out_used() >= OUT_DATA_MARK) break;
        if (c->kind == GET && may_send(c)) more_file(c);
        else if (c->kind == LIST && c->credit >= BODY_MAX) more_list(c);
        else if (c->kind == CONNECT && c->ending == 1 && !c->connecting) on_socket(c, 0);
    }
    if (g_watch_at && g_watch_at <= now_ms()) {
        g_watch_at = 0;
        watch_cpu();
    }
    tidy();
    write_host();
}

/* For trying a runtime out: how fast this machine computes, in millions of xorshift steps a second. */
static int score(void)
{
    struct timespec from, to;
    unsigned long long steps = 50000000, x = 88172645463325252ull;
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (unsigned long long i = 0; i < steps; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    double s = (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9;
    /* Printing x keeps the loop from being left out. */
    printf("cpu_score=%.1f checksum=%llx\n", (double)steps / 1e6 / s, x);
    return 0;
}

int main(int argc, char **argv)
{
    sigset_t child;
    if (argc == 2 && !strcmp(argv[1], "score")) return score();
    if (argc == 2 && !strcmp(argv[1], "serve")) {
        g_in = fcntl(0, F_DUPFD_CLOEXEC, 10);
        g_out = fcntl(1, F_DUPFD_CLOEXEC, 10);
        fcntl(g_in, F_SETFL, O_NONBLOCK);
        fcntl(g_out, F_SETFL, O_NONBLOCK);
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (g_in < 0 || g_out < 0 || null < 0) die("no standard streams");
        dup2(null, 0);
        dup2(2, 1);
    } else if (argc == 2 && !strcmp(argv[1], "version")) {
        printf("golemp2p guest agent, protocol %d\n", VERSION);
        return 0;
    } else if (getpid() == 1) boot(); /* the kernel hands on words of its command line that it does not know */
    else {
        fprintf(stderr, "usage: agent serve|version   (or as /init of a virtual machine)\n");
        return 64;
    }
    g_self = getpid();
    prctl(PR_SET_DUMPABLE, 0);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    char text[16];
    if (read_text(AT_FDCWD, "/proc/sys/kernel/cap_last_cap", text, sizeof text) > 0) g_last_cap = atoi(text);
    umask(022);
    for (int s = 1; s < 32; s++)
        if (s != SIGCHLD && s != SIGKILL && s != SIGSTOP && s != SIGSEGV && s != SIGBUS && s != SIGFPE && s != SIGILL)
            signal(s, SIG_IGN);
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, NULL);
    int signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signals < 0) die("signalfd");
    strcpy(g_default_user.home, "/");
    while (!g_stop) turn(signals);
    /* The last words, for as long as the host takes them at once. */
    fcntl(g_out, F_SETFL, O_NONBLOCK);
    if (g_stop == 1) write_host();
    if (g_machine) {
        reboot(RB_POWER_OFF);
        die("power off");
    }
    for (struct channel *c = g_channels; c; c = c->next)
        for (int tries = 0; c->kind == RUN && c->keeper > 0 && tries < 100 && kill_tree(c->keeper); tries++) continue;
    kill_tree(0);
    return 0;
}
