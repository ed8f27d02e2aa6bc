/* Preloaded into a process, this writes down every change that it makes to files under RECORD_ROOT, in order.
 *
 * One entry: u8 kind, u16 length and bytes of the path, u16 length and bytes of a second path, u64 offset, u32 length and
 * bytes of the data. Kinds: c create, w write, t truncate to offset, s sync, r rename, u unlink, m make directory.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAX_FD 1024
static char names[MAX_FD][PATH_MAX];
static int out = -1;
static const char *root;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int watched(const char *path) { return root && strncmp(path, root, strlen(root)) == 0; }

static void note(char kind, const char *path, const char *second, uint64_t offset, const void *data, uint32_t size) {
    uint16_t n = strlen(path), m = second ? strlen(second) : 0;
    struct iovec parts[] = {{&kind, 1}, {&n, 2}, {(void *)path, n}, {&m, 2}, {(void *)(second ? second : ""), m},
                            {&offset, 8}, {&size, 4}, {(void *)data, size}};
    pthread_mutex_lock(&lock);
    if (writev(out, parts, 8) < 0) abort();
    pthread_mutex_unlock(&lock);
}

__attribute__((constructor)) static void start(void) {
    root = getenv("RECORD_ROOT");
    if (root) out = REAL(open)(getenv("RECORD_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int opened(int fd, const char *path, int flags, int existed) {
    if (fd >= 0 && fd < MAX_FD) names[fd][0] = 0;
    if (fd >= 0 && fd < MAX_FD && watched(path)) {
        strncpy(names[fd], path, PATH_MAX - 1);
        if (!existed) note('c', path, NULL, 0, NULL, 0);
        if (existed && (flags & O_TRUNC)) note('t', path, NULL, 0, NULL, 0);
    }
    return fd;
}

#define OPEN(name)                                                                   \
    int name(const char *path, int flags, ...) {                                     \
        va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest); \
        int existed = access(path, F_OK) == 0;                                       \
        return opened(REAL(name)(path, flags, mode), path, flags, existed);          \
    }
OPEN(open)
OPEN(open64)

static const char *name_of(int fd) { return fd >= 0 && fd < MAX_FD && names[fd][0] ? names[fd] : NULL; }

int close(int fd) {
    if (fd >= 0 && fd < MAX_FD) names[fd][0] = 0;
    return REAL(close)(fd);
}

ssize_t write(int fd, const void *data, size_t size) {
    off_t offset = name_of(fd) ? lseek(fd, 0, SEEK_CUR) : 0;
    ssize_t done = REAL(write)(fd, data, size);
    if (done > 0 && name_of(fd)) note('w', name_of(fd), NULL, offset, data, done);
    return done;
}

#define PWRITE(name, type)                                                           \
    ssize_t name(int fd, const void *data, size_t size, type offset) {               \
        ssize_t done = REAL(name)(fd, data, size, offset);                           \
        if (done > 0 && name_of(fd)) note('w', name_of(fd), NULL, offset, data, done); \
        return done;                                                                 \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define TRUNCATE(name, type)                                                         \
    int name(int fd, type size) {                                                    \
        int done = REAL(name)(fd, size);                                             \
        if (!done && name_of(fd)) note('t', name_of(fd), NULL, size, NULL, 0);       \
        return done;                                                                 \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define SYNC(name)                                                                   \
    int name(int fd) {                                                               \
        int done = REAL(name)(fd);                                                   \
        if (!done && name_of(fd)) note('s', name_of(fd), NULL, 0, NULL, 0);          \
        return done;                                                                 \
    }
SYNC(fsync)
SYNC(fdatasync)

int rename(const char *from, const char *to) {
    int done = REAL(rename)(from, to);
    if (!done && watched(to)) note('r', from, to, 0, NULL, 0);
    return done;
}

int unlink(const char *path) {
    int done = REAL(unlink)(path);
    if (!done && watched(path)) note('u', path, NULL, 0, NULL, 0);
    return done;
}

int mkdir(const char *path, mode_t mode) {
    int done = REAL(mkdir)(path, mode);
    if (!done && watched(path)) note('m', path, NULL, 0, NULL, 0);
    return done;
}
