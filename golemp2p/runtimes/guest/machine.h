/* Part of agent.c, included there once: the life as /init of a virtual machine. */

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
    write_text(AT_FDCWD, "/proc/sys/net/ipv4/ping_group_range", "0 2147483647"); /* as container engines do */
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

static int is_empty(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *e;
    while (dir && (e = readdir(dir)) && (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))) {}
    int empty = !dir || !e;
    if (dir) closedir(dir);
    return empty;
}

/* A volume is a directory mounted on its path: the payload can neither move nor remove it. Where the image has files
 * there it is the image's own directory, whose changes go to the scratch disk; else one of the scratch disk. */
static int make_volume(int number, char *path)
{
    char name[16], source[64];
    struct stat image, root;
    make_directories(path);
    if (g_scratch < 0) return access(path, F_OK);
    if (stat(path, &image) || stat("/", &root)) return -1;
    int fd, is_image = image.st_dev == root.st_dev; /* not /proc or /dev, nor below another volume */
    if (is_image && !is_empty(path)) {
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    } else {
        snprintf(name, sizeof name, "%d", number);
        mkdirat(g_scratch, name, 0755);
        fd = openat(g_scratch, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (is_image && fd >= 0 && fchown(fd, image.st_uid, image.st_gid)) close_fd(&fd);
    }
    if (fd < 0) return -1;
    if (is_image) fchmod(fd, (image.st_mode & 07777) | 0700);
    if (g_default_user.uid || !image.st_uid) own(fd); /* what a service's user owns stays its own when root starts it */
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
