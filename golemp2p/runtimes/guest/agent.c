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
#include <arpa/inet.h>
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
    H_STAT, H_CONNECT, H_USAGE, H_SHUTDOWN, H_PART, H_NET, H_SEAL,
    H_OUTBOUND, H_ACCEPT
};
enum { /* agent to host */
    A_HELLO = 64, A_OK, A_ERROR, A_STDOUT, A_STDERR, A_DATA, A_END, A_EXITED, A_CREDIT
};
enum { EXIT_OOM = 1, EXIT_CPU = 2, EXIT_KILLED = 4 };
enum { SETUP_SCRATCH = 1 };

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;

#include "wire.h"

/* ---- channels ------------------------------------------------------------------------------------------------ */

enum { RUN, PUT, GET, LIST, CONNECT, NET, OUTBOUND };

struct channel {
    struct channel *next;
    u32 id;
    int kind;
    u32 credit;             /* bytes that we may still send */
    int fd;                 /* put, get: the file; connect: the socket; net: the device; run: the keeper's status pipe */
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
        if (files[i] && read_text(AT_FDCWD, files[i], text, sizeof text) >= 0) {
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

#include "files.h"

/* ---- connections to the payload's loopback or network address -------------------------------------------------- */

static void on_connect(u32 id, struct reader *r)
{
    u32 window = r32(r), port = r32(r), address = r32(r);
    if (r->bad || !port || port > 65535) return send_error(id, EINVAL, "no port");
    struct channel *c = open_channel(id, CONNECT, window);
    if (!c) return;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(address ? address : INADDR_LOOPBACK)}};
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

#include "machine.h"
#include "network.h"

static void want(int fd, short events, struct channel *c, int part);
#include "outbound.h"

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
    else if (kind == H_DATA && c->kind == NET) packet_in(c, body, size);
    else if (kind == H_DATA && c->kind == OUTBOUND) outbound_word(body, size);
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
    case H_NET: return on_net(id, &r);
    case H_SEAL: return on_seal(id, &r);
    case H_OUTBOUND: return on_outbound(id, &r);
    case H_ACCEPT: return on_accept(id, &r);
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
        } else if (c->kind == OUTBOUND) {
            if (may_send(c) && may_queue) outbound_wants(c);
        } else if (c->kind == NET) {
            if (may_send_packet(c) && may_queue) want(c->fd, POLLIN, c, 0);
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
        else if (c->kind == NET) packets_out(c);
        else if (c->kind == OUTBOUND) on_outbound_ready(c, part);
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
