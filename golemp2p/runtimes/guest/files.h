/* Part of agent.c, included there once: the volumes' files, for put, get, list, mkdir, symlink and stat. */

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
