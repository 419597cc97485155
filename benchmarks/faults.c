/* Preloaded into a process, lets chosen calls to the file system fail, and writes down those that there are.

   Nothing happens until `faults_arm` names a folder. From then on each call on a path below it is one line in the log,
   "role<tab>operation<tab>path", and the nth call of one operation on one path fails as told. Paths are relative to the
   folder; what differs from run to run (process ids, times, random names below tmp/) is written as # in them. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SHORT (-1) /* instead of an errno: half of what was asked for is read or written */
#define LONG_NUMBER 9 /* digits: a time */

static struct {
    char folder[PATH_MAX], path[PATH_MAX], operation[16];
    int log, role, error, lasting, struck;
    long nth, seen;
} plan;

/* `lasting`: as on a full disk, all that writes or makes anything in the folder fails from then on, too. `nth` 0: none
   fails. */
void faults_arm(const char *folder, int log, int role, const char *operation, const char *path, long nth, int error,
                int lasting) {
    snprintf(plan.folder, sizeof plan.folder, "%s", folder);
    snprintf(plan.path, sizeof plan.path, "%s", path);
    snprintf(plan.operation, sizeof plan.operation, "%s", operation);
    plan.log = log, plan.role = role, plan.error = error, plan.lasting = lasting;
    plan.nth = nth, plan.seen = 0, plan.struck = 0;
}

/* Copies `path`, which is relative to the folder, without what differs from run to run. */
static void generalise(const char *path, char *out, size_t size) {
    size_t used = 0;
    if (!strncmp(path, "tmp/", 4)) {
        const char *rest = strchr(path + 4, '/');
        snprintf(out, size, "tmp/#%s", rest ? rest : "");
        return;
    }
    while (*path && used + 1 < size) {
        size_t digits = strspn(path, "0123456789");
        if (digits == 0) {
            out[used++] = *path++;
        } else if (digits >= LONG_NUMBER || strtol(path, NULL, 10) == getpid()) {
            out[used++] = '#', path += digits;
        } else {
            while (digits-- && used + 1 < size) out[used++] = *path++;
        }
    }
    out[used] = 0;
}

static int is_writing(const char *operation) {
    static const char *const all[] = {"create", "write", "pwrite", "mkdir", "rename", "link"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!strcmp(operation, all[i])) return 1;
    return 0;
}

/* What is to become of a call on an absolute path: 0 (nothing), SHORT or an errno. */
static int fate(const char *operation, const char *path) {
    char general[PATH_MAX], line[3 * PATH_MAX];
    size_t length = strlen(plan.folder);
    if (!length || strncmp(path, plan.folder, length) || (path[length] != '/' && path[length])) return 0;
    const char *inner = path[length] ? path + length + 1 : ".";
    generalise(inner, general, sizeof general);
    int mine = plan.nth && !strcmp(operation, plan.operation) && !strcmp(general, plan.path);
    int hit = mine && __atomic_add_fetch(&plan.seen, 1, __ATOMIC_SEQ_CST) == plan.nth;
    int size = snprintf(line, sizeof line, "%s%d\t%s\t%s\t%s\n", hit ? "HIT" : "", plan.role, operation, general, inner);
    syscall(SYS_write, plan.log, line, (size_t)size);
    if (hit) plan.struck = 1;
    return hit || (plan.struck && plan.lasting && is_writing(operation)) ? plan.error : 0;
}

static int fate_at(const char *operation, int folder, const char *path) {
    char whole[2 * PATH_MAX], link[64];
    if (!plan.folder[0] || !path) return 0;
    if (path[0] == '/') return fate(operation, path);
    whole[0] = 0;
    if (folder == AT_FDCWD) {
        if (syscall(SYS_getcwd, whole, PATH_MAX) < 0) return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        long size = syscall(SYS_readlinkat, AT_FDCWD, link, whole, PATH_MAX);
        if (size < 0) return 0;
        whole[size] = 0;
    }
    snprintf(whole + strlen(whole), PATH_MAX, "/%s", path);
    return fate(operation, whole);
}

static int fate_of(const char *operation, int fd) {
    char path[PATH_MAX], link[64];
    if (!plan.folder[0] || fd <= 2 || fd == plan.log) return 0; /* the standard streams carry the message */
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long size = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return fate(operation, path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Fails with `fate`, or does `call`. SHORT is of no meaning where there is no size. */
#define CALL(fate_, result_, call)                 \
    do {                                           \
        int fate__ = fate_;                        \
        if (fate__ > 0) return errno = fate__, result_; \
        return call;                               \
    } while (0)

/* Likewise for a call that takes `size` bytes. */
#define SIZED(fate_, size, call)              \
    do {                                      \
        int fate__ = fate_;                   \
        if (fate__ > 0) return errno = fate__, -1; \
        if (fate__ == SHORT && (size) > 1) (size) /= 2; \
        return call;                          \
    } while (0)

#define OPENING(name)                                                                                   \
    int name(const char *path, int flags, ...) {                                                        \
        va_list list;                                                                                   \
        va_start(list, flags);                                                                          \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(list, mode_t) : 0;                       \
        va_end(list);                                                                                   \
        CALL(fate_at(flags & O_CREAT ? "create" : "open", AT_FDCWD, path), -1, REAL(name)(path, flags, mode)); \
    }
OPENING(open)
OPENING(open64)

#define OPENING_AT(name)                                                                                \
    int name(int folder, const char *path, int flags, ...) {                                            \
        va_list list;                                                                                   \
        va_start(list, flags);                                                                          \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(list, mode_t) : 0;                       \
        va_end(list);                                                                                   \
        CALL(fate_at(flags & O_CREAT ? "create" : "open", folder, path), -1, REAL(name)(folder, path, flags, mode)); \
    }
OPENING_AT(openat)
OPENING_AT(openat64)

ssize_t read(int fd, void *bytes, size_t size) { SIZED(fate_of("read", fd), size, REAL(read)(fd, bytes, size)); }
ssize_t write(int fd, const void *bytes, size_t size) {
    SIZED(fate_of("write", fd), size, REAL(write)(fd, bytes, size));
}
#define POSITIONED(name, kind, constness, type)                                 \
    ssize_t name(int fd, constness void *bytes, size_t size, type offset) {     \
        SIZED(fate_of(kind, fd), size, REAL(name)(fd, bytes, size, offset));    \
    }
POSITIONED(pread, "pread", , off_t)
POSITIONED(pread64, "pread", , off64_t)
POSITIONED(pwrite, "pwrite", const, off_t)
POSITIONED(pwrite64, "pwrite", const, off64_t)

int fsync(int fd) { CALL(fate_of("fsync", fd), -1, REAL(fsync)(fd)); }
int fdatasync(int fd) { CALL(fate_of("fsync", fd), -1, REAL(fdatasync)(fd)); }
int ftruncate(int fd, off_t size) { CALL(fate_of("truncate", fd), -1, REAL(ftruncate)(fd, size)); }
int ftruncate64(int fd, off64_t size) { CALL(fate_of("truncate", fd), -1, REAL(ftruncate64)(fd, size)); }
int flock(int fd, int what) { CALL(fate_of(what & LOCK_UN ? "unlock" : "lock", fd), -1, REAL(flock)(fd, what)); }

#define CONTROLLING(name)                                                                       \
    int name(int fd, int command, ...) {                                                        \
        va_list list;                                                                           \
        va_start(list, command);                                                                \
        void *argument = va_arg(list, void *);                                                  \
        va_end(list);                                                                           \
        int locks = command == F_SETLK || command == F_SETLKW;                                  \
        int gives_back = locks && ((struct flock *)argument)->l_type == F_UNLCK;                \
        CALL(locks ? fate_of(gives_back ? "unlock" : "lock", fd) : 0, -1, REAL(name)(fd, command, argument)); \
    }
CONTROLLING(fcntl)
CONTROLLING(fcntl64)

int close(int fd) {
    int writes = plan.folder[0] && (REAL(fcntl)(fd, F_GETFL) & O_ACCMODE) != O_RDONLY;
    int fate__ = writes ? fate_of("close", fd) : 0;
    int result = REAL(close)(fd); /* Linux closes it even where it says that it failed */
    if (fate__ > 0) return errno = fate__, -1;
    return result;
}

int rename(const char *from, const char *to) { CALL(fate_at("rename", AT_FDCWD, to), -1, REAL(rename)(from, to)); }
int link(const char *from, const char *to) { CALL(fate_at("link", AT_FDCWD, to), -1, REAL(link)(from, to)); }
int unlink(const char *path) { CALL(fate_at("unlink", AT_FDCWD, path), -1, REAL(unlink)(path)); }
int unlinkat(int folder, const char *path, int flags) {
    CALL(fate_at("unlink", folder, path), -1, REAL(unlinkat)(folder, path, flags));
}
int rmdir(const char *path) { CALL(fate_at("rmdir", AT_FDCWD, path), -1, REAL(rmdir)(path)); }
int mkdir(const char *path, mode_t mode) { CALL(fate_at("mkdir", AT_FDCWD, path), -1, REAL(mkdir)(path, mode)); }
DIR *opendir(const char *path) { CALL(fate_at("list", AT_FDCWD, path), NULL, REAL(opendir)(path)); }
DIR *fdopendir(int fd) { CALL(fate_of("list", fd), NULL, REAL(fdopendir)(fd)); }

#define STATING(name, type) \
    int name(const char *path, struct type *out) { CALL(fate_at("stat", AT_FDCWD, path), -1, REAL(name)(path, out)); }
STATING(stat, stat)
STATING(stat64, stat64)
STATING(lstat, stat)
STATING(lstat64, stat64)
#define STATING_FD(name, type) \
    int name(int fd, struct type *out) { CALL(fate_of("stat", fd), -1, REAL(name)(fd, out)); }
STATING_FD(fstat, stat)
STATING_FD(fstat64, stat64)
#define STATING_AT(name, type)                                                          \
    int name(int folder, const char *path, struct type *out, int flags) {               \
        CALL(fate_at("stat", folder, path), -1, REAL(name)(folder, path, out, flags));  \
    }
STATING_AT(fstatat, stat)
STATING_AT(fstatat64, stat64)
