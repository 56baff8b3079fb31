/* Watches what a process writes below one directory, and what it syncs.
 *
 * Loaded by LD_PRELOAD. POWERCUT_DIR names the directory, POWERCUT_LOG the log, which lies outside of
 * it. Every operation that changes a file or a name below the directory is appended to the log before
 * it is done, with the written bytes; a finished sync is appended with the log position at which it
 * began, as it vouches only for what was written before. With POWERCUT_FAIL_SYNCS=N every Nth sync of a
 * file fails with EIO, and so does, as with Linux since 4.13, the next one by each other descriptor that
 * had the file open. support/powercut.py reads the log and builds what a disk could hold after the
 * power failed at any moment of it.
 *
 * Seen: open and its kin, creat, write, pwrite, writev, pwritev, ftruncate, truncate, fallocate, fsync,
 * fdatasync, rename, link, unlink, mkdir, rmdir. Writable shared mappings of anything but SQLite's -shm
 * file, and duplicated descriptors, are not followed: they are logged as such, and the reader refuses
 * the log.
 */
/* Distributions turn these on by default; both replace the very functions that are defined here. */
#undef _FORTIFY_SOURCE
#undef _FILE_OFFSET_BITS
#undef _TIME_BITS
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAX_FD 65536
#define EXPORT __attribute__((visibility("default")))

/* A record: this head, then `path_length` bytes of path, then `data_length` bytes of data. */
struct record {
    uint32_t magic;
    uint32_t kind;
    uint64_t inode;
    uint64_t offset;
    uint32_t path_length;
    uint32_t data_length;
};

enum { MAGIC = 0x50435554 };

enum kind {
    OPENED = 1,  /* inode, path: an existing file */
    CREATED,     /* inode, path */
    WRITTEN,     /* inode, offset, data */
    TRUNCATED,   /* inode, offset: the new size */
    SYNCED,      /* inode, offset: the log position when the sync began */
    DIR_SYNCED,  /* path, offset: likewise */
    RENAMED,     /* path, data: the new path */
    UNLINKED,    /* path */
    MADE_DIR,    /* path */
    UNFOLLOWED,  /* path: something happened that the log does not tell */
    SYNC_FAILED, /* inode, offset: a sync that began there reported an error */
};

/* A descriptor below the directory; inode 0 is none. */
struct watched {
    uint64_t inode;
    int is_dir;
    /* Failed syncs of the file that were reported to this descriptor, or came before it. */
    unsigned long seen;
};

/* Failed syncs of a file, by any descriptor. */
struct failures {
    uint64_t inode;
    unsigned long count;
};

#define MAX_FAILING 256
static struct failures failures[MAX_FAILING];

static struct watched watched[MAX_FD];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char directory[PATH_MAX];
static size_t directory_length;
static int log_fd = -1;
static uint64_t log_position;
/* Every so many syncs of files fail; 0 for none. */
static unsigned long fail_every, syncs;

/* The next definition of a symbol, which is libc's. */
#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name)
{
    void *symbol = dlsym(RTLD_NEXT, name);
    if (!symbol) {
        fprintf(stderr, "powercut: no %s in libc\n", name);
        abort();
    }
    return symbol;
}

static void fail(const char *what)
{
    fprintf(stderr, "powercut: %s: %s\n", what, strerror(errno));
    abort();
}

__attribute__((constructor)) static void start(void)
{
    const char *dir = getenv("POWERCUT_DIR");
    const char *log = getenv("POWERCUT_LOG");
    if (!dir || !log)
        return;
    if (!realpath(dir, directory))
        fail("POWERCUT_DIR");
    directory_length = strlen(directory);
    int fd = REAL(open)(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0)
        fail("POWERCUT_LOG");
    const char *every = getenv("POWERCUT_FAIL_SYNCS");
    fail_every = every ? strtoul(every, NULL, 10) : 0;
    /* Children of the process are not watched. */
    unsetenv("POWERCUT_DIR");
    log_fd = fd;
}

static int below(const char *path)
{
    return log_fd >= 0 && strncmp(path, directory, directory_length) == 0 &&
           (path[directory_length] == '/' || path[directory_length] == '\0');
}

/* With the lock held. A record cut short by the kill is the last one, and the reader drops it. */
static void append(enum kind kind, uint64_t inode, uint64_t offset, const char *path,
                   const struct iovec *data, int count)
{
    struct record record = {.magic = MAGIC, .kind = kind, .inode = inode, .offset = offset};
    struct iovec parts[count + 2];
    size_t total = 0;
    record.path_length = path ? strlen(path) : 0;
    parts[1] = (struct iovec){(void *)path, record.path_length};
    for (int i = 0; i < count; i++) {
        parts[i + 2] = data[i];
        record.data_length += data[i].iov_len;
    }
    parts[0] = (struct iovec){&record, sizeof record};
    for (int i = 0; i < count + 2; i++)
        total += parts[i].iov_len;
    if (REAL(writev)(log_fd, parts, count + 2) != (ssize_t)total)
        fail("the log");
    log_position += total;
}

static void append_path(enum kind kind, const char *path)
{
    pthread_mutex_lock(&lock);
    append(kind, 0, 0, path, NULL, 0);
    pthread_mutex_unlock(&lock);
}

static int fd_path(int fd, char path[PATH_MAX])
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0)
        return 0;
    path[length] = '\0';
    return 1;
}

/* The absolute path of a name whose last part may not exist; 0 when it is not below the directory. */
static int absolute(int at, const char *name, char path[PATH_MAX])
{
    char joined[PATH_MAX], base[PATH_MAX];
    if (log_fd < 0)
        return 0;
    if (name[0] == '/' || at == AT_FDCWD) {
        snprintf(joined, sizeof joined, "%s", name);
    } else {
        if (!fd_path(at, base) || snprintf(joined, sizeof joined, "%s/%s", base, name) >= PATH_MAX)
            return 0;
    }
    char *slash = strrchr(joined, '/');
    const char *last = slash ? slash + 1 : joined;
    const char *parent = slash == joined ? "/" : slash ? joined : ".";
    if (slash && slash != joined)
        *slash = '\0';
    if (!realpath(parent, base) || snprintf(path, PATH_MAX, "%s/%s", base, last) >= PATH_MAX)
        return 0;
    return below(path);
}

static struct watched *watch_of(int fd)
{
    return log_fd >= 0 && fd >= 0 && fd < MAX_FD && watched[fd].inode ? &watched[fd] : NULL;
}

/* With the lock held. */
static unsigned long *failures_of(uint64_t inode)
{
    for (int i = 0; i < MAX_FAILING; i++) {
        if (!failures[i].inode)
            failures[i].inode = inode;
        if (failures[i].inode == inode)
            return &failures[i].count;
    }
    fprintf(stderr, "powercut: more than %d files are synced\n", MAX_FAILING);
    abort();
}

/* What becomes of a sync. */
enum outcome { SYNCS, FAILS, REPORTS };

/* With the lock held. A sync that only reports an earlier failure loses nothing more. */
static enum outcome outcome_of(struct watched *file)
{
    if (file->is_dir || !fail_every)
        return SYNCS;
    unsigned long *count = failures_of(file->inode);
    enum outcome outcome = file->seen != *count ? REPORTS : SYNCS;
    if (outcome == SYNCS && ++syncs % fail_every == 0) {
        ++*count;
        outcome = FAILS;
    }
    file->seen = *count;
    return outcome;
}

/* With the lock held: whether another descriptor's sync has failed since this one's began. */
static int sync_failed_meanwhile(struct watched *file)
{
    if (file->is_dir || !fail_every)
        return 0;
    unsigned long count = *failures_of(file->inode);
    int failed = file->seen != count;
    file->seen = count;
    return failed;
}

/* Opens under the lock, so that no other thread's record comes between the file and its creation. */
static int opened(int at, const char *name, int flags, int (*open_it)(int, const char *, int, mode_t),
                  mode_t mode)
{
    char path[PATH_MAX];
    if (!absolute(at, name, path))
        return open_it(at, name, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat stat;
    int existed = fstatat(at, name, &stat, 0) == 0;
    int fd = open_it(at, name, flags, mode);
    int error = errno;
    if (fd >= 0 && fd < MAX_FD && fd_path(fd, path) && below(path) && fstat(fd, &stat) == 0) {
        unsigned long seen = fail_every ? *failures_of(stat.st_ino) : 0;
        watched[fd] = (struct watched){stat.st_ino, S_ISDIR(stat.st_mode), seen};
        append(existed ? OPENED : CREATED, stat.st_ino, 0, path, NULL, 0);
        if (flags & O_TRUNC)
            append(TRUNCATED, stat.st_ino, 0, NULL, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return fd;
}

static int open_by_openat(int at, const char *name, int flags, mode_t mode)
{
    return REAL(openat)(at, name, flags, mode);
}

#define MODE_OF(flags, before)                        \
    mode_t mode = 0;                                  \
    if ((flags) & O_CREAT) {                          \
        va_list arguments;                            \
        va_start(arguments, before);                  \
        mode = va_arg(arguments, mode_t);             \
        va_end(arguments);                            \
    }

EXPORT int open(const char *name, int flags, ...)
{
    MODE_OF(flags, flags)
    return opened(AT_FDCWD, name, flags, open_by_openat, mode);
}

EXPORT int open64(const char *name, int flags, ...)
{
    MODE_OF(flags, flags)
    return opened(AT_FDCWD, name, flags | O_LARGEFILE, open_by_openat, mode);
}

EXPORT int openat(int at, const char *name, int flags, ...)
{
    MODE_OF(flags, flags)
    return opened(at, name, flags, open_by_openat, mode);
}

EXPORT int openat64(int at, const char *name, int flags, ...)
{
    MODE_OF(flags, flags)
    return opened(at, name, flags | O_LARGEFILE, open_by_openat, mode);
}

EXPORT int creat(const char *name, mode_t mode)
{
    return opened(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, open_by_openat, mode);
}

EXPORT int close(int fd)
{
    if (fd >= 0 && fd < MAX_FD)
        watched[fd].inode = 0;
    return REAL(close)(fd);
}

/* Where a write without an offset goes. */
static off_t position_of(int fd)
{
    struct stat stat;
    int flags = fcntl(fd, F_GETFL);
    if (flags >= 0 && flags & O_APPEND)
        return fstat(fd, &stat) == 0 ? stat.st_size : 0;
    return lseek(fd, 0, SEEK_CUR);
}

/* The lock spans the record and the write, so that overlapping writes have one order. */
static ssize_t written(int fd, const struct iovec *data, int count, off_t offset, int at_offset)
{
    struct watched *file = watch_of(fd);
    if (!file)
        return at_offset ? REAL(pwritev)(fd, data, count, offset) : REAL(writev)(fd, data, count);
    pthread_mutex_lock(&lock);
    append(WRITTEN, file->inode, at_offset ? offset : position_of(fd), NULL, data, count);
    ssize_t done = at_offset ? REAL(pwritev)(fd, data, count, offset) : REAL(writev)(fd, data, count);
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

EXPORT ssize_t write(int fd, const void *data, size_t length)
{
    if (!watch_of(fd))
        return REAL(write)(fd, data, length);
    return written(fd, &(struct iovec){(void *)data, length}, 1, 0, 0);
}

EXPORT ssize_t pwrite(int fd, const void *data, size_t length, off_t offset)
{
    if (!watch_of(fd))
        return REAL(pwrite)(fd, data, length, offset);
    return written(fd, &(struct iovec){(void *)data, length}, 1, offset, 1);
}

EXPORT ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset)
{
    return pwrite(fd, data, length, offset);
}

EXPORT ssize_t writev(int fd, const struct iovec *data, int count)
{
    return written(fd, data, count, 0, 0);
}

EXPORT ssize_t pwritev(int fd, const struct iovec *data, int count, off_t offset)
{
    return written(fd, data, count, offset, 1);
}

EXPORT ssize_t pwritev64(int fd, const struct iovec *data, int count, off64_t offset)
{
    return written(fd, data, count, offset, 1);
}

EXPORT ssize_t pwritev2(int fd, const struct iovec *data, int count, off_t offset, int flags)
{
    if (!watch_of(fd))
        return REAL(pwritev2)(fd, data, count, offset, flags);
    return written(fd, data, count, offset, offset != -1);
}

EXPORT ssize_t pwritev64v2(int fd, const struct iovec *data, int count, off64_t offset, int flags)
{
    return pwritev2(fd, data, count, offset, flags);
}

static void resized(int fd, off_t size)
{
    struct watched *file = watch_of(fd);
    if (!file)
        return;
    pthread_mutex_lock(&lock);
    append(TRUNCATED, file->inode, size, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
}

EXPORT int ftruncate(int fd, off_t size)
{
    resized(fd, size);
    return REAL(ftruncate)(fd, size);
}

EXPORT int ftruncate64(int fd, off64_t size)
{
    return ftruncate(fd, size);
}

EXPORT int truncate(const char *name, off_t size)
{
    int fd = open(name, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int result = ftruncate(fd, size);
    close(fd);
    return result;
}

EXPORT int truncate64(const char *name, off64_t size)
{
    return truncate(name, size);
}

/* A file that grows is a truncation to its new size; holes are not looked into. */
static void allocated(int fd, off_t end)
{
    struct stat stat;
    if (watch_of(fd) && fstat(fd, &stat) == 0 && end > stat.st_size)
        resized(fd, end);
}

EXPORT int fallocate(int fd, int mode, off_t offset, off_t length)
{
    char path[PATH_MAX];
    if (mode & ~FALLOC_FL_KEEP_SIZE && watch_of(fd) && fd_path(fd, path))
        append_path(UNFOLLOWED, path);
    if (!(mode & FALLOC_FL_KEEP_SIZE))
        allocated(fd, offset + length);
    return REAL(fallocate)(fd, mode, offset, length);
}

EXPORT int fallocate64(int fd, int mode, off64_t offset, off64_t length)
{
    return fallocate(fd, mode, offset, length);
}

EXPORT int posix_fallocate(int fd, off_t offset, off_t length)
{
    allocated(fd, offset + length);
    return REAL(posix_fallocate)(fd, offset, length);
}

EXPORT int posix_fallocate64(int fd, off64_t offset, off64_t length)
{
    return posix_fallocate(fd, offset, length);
}

static int synced(int fd, int (*sync_it)(int))
{
    struct watched *file = watch_of(fd);
    char path[PATH_MAX];
    if (!file)
        return sync_it(fd);
    struct watched what = *file;
    pthread_mutex_lock(&lock);
    uint64_t began = log_position;
    enum outcome outcome = outcome_of(file);
    if (outcome == FAILS)
        append(SYNC_FAILED, what.inode, began, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    if (outcome != SYNCS) {
        errno = EIO;
        return -1;
    }
    int result = sync_it(fd);
    int error = errno;
    if (result == 0) {
        pthread_mutex_lock(&lock);
        if (sync_failed_meanwhile(file)) {
            result = -1;
            error = EIO;
        } else if (!what.is_dir)
            append(SYNCED, what.inode, began, NULL, NULL, 0);
        else if (fd_path(fd, path))
            append(DIR_SYNCED, what.inode, began, path, NULL, 0);
        pthread_mutex_unlock(&lock);
    }
    errno = error;
    return result;
}

EXPORT int fsync(int fd)
{
    return synced(fd, REAL(fsync));
}

EXPORT int fdatasync(int fd)
{
    return synced(fd, REAL(fdatasync));
}

static int renamed(int from_at, const char *from, int to_at, const char *to, unsigned flags)
{
    char old_path[PATH_MAX], new_path[PATH_MAX];
    int known = absolute(from_at, from, old_path);
    int new_known = absolute(to_at, to, new_path);
    pthread_mutex_lock(&lock);
    int result = flags ? REAL(renameat2)(from_at, from, to_at, to, flags) : REAL(renameat)(from_at, from, to_at, to);
    int error = errno;
    if (result == 0 && known && new_known && !flags)
        append(RENAMED, 0, 0, old_path, &(struct iovec){new_path, strlen(new_path)}, 1);
    else if (result == 0 && (known || new_known))
        append(UNFOLLOWED, 0, 0, known ? old_path : new_path, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

EXPORT int rename(const char *from, const char *to)
{
    return renamed(AT_FDCWD, from, AT_FDCWD, to, 0);
}

EXPORT int renameat(int from_at, const char *from, int to_at, const char *to)
{
    return renamed(from_at, from, to_at, to, 0);
}

EXPORT int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags)
{
    return renamed(from_at, from, to_at, to, flags);
}

EXPORT int linkat(int from_at, const char *from, int to_at, const char *to, int flags)
{
    char path[PATH_MAX];
    int result = REAL(linkat)(from_at, from, to_at, to, flags);
    int error = errno;
    if (result == 0 && absolute(to_at, to, path))
        append_path(UNFOLLOWED, path);
    errno = error;
    return result;
}

EXPORT int link(const char *from, const char *to)
{
    return linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
}

EXPORT int unlinkat(int at, const char *name, int flags)
{
    char path[PATH_MAX];
    if (!absolute(at, name, path))
        return REAL(unlinkat)(at, name, flags);
    pthread_mutex_lock(&lock);
    int result = REAL(unlinkat)(at, name, flags);
    int error = errno;
    if (result == 0)
        append(UNLINKED, 0, 0, path, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

EXPORT int unlink(const char *name)
{
    return unlinkat(AT_FDCWD, name, 0);
}

EXPORT int rmdir(const char *name)
{
    return unlinkat(AT_FDCWD, name, AT_REMOVEDIR);
}

EXPORT int mkdirat(int at, const char *name, mode_t mode)
{
    char path[PATH_MAX];
    int result = REAL(mkdirat)(at, name, mode);
    int error = errno;
    if (result == 0 && absolute(at, name, path))
        append_path(MADE_DIR, path);
    errno = error;
    return result;
}

EXPORT int mkdir(const char *name, mode_t mode)
{
    return mkdirat(AT_FDCWD, name, mode);
}

EXPORT void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    char path[PATH_MAX];
    if (flags & MAP_SHARED && protection & PROT_WRITE && watch_of(fd) && fd_path(fd, path)) {
        size_t end = strlen(path);
        if (end < 4 || strcmp(path + end - 4, "-shm") != 0)
            append_path(UNFOLLOWED, path);
    }
    return REAL(mmap)(address, length, protection, flags, fd, offset);
}

EXPORT void *mmap64(void *address, size_t length, int protection, int flags, int fd, off64_t offset)
{
    return mmap(address, length, protection, flags, fd, offset);
}

static int duplicated(int fd, int copy)
{
    char path[PATH_MAX];
    int error = errno;
    if (copy >= 0 && watch_of(fd) && fd_path(fd, path))
        append_path(UNFOLLOWED, path);
    errno = error;
    return copy;
}

EXPORT int dup(int fd)
{
    return duplicated(fd, REAL(dup)(fd));
}

EXPORT int dup2(int fd, int copy)
{
    if (copy >= 0 && copy < MAX_FD)
        watched[copy].inode = 0;
    return duplicated(fd, REAL(dup2)(fd, copy));
}

EXPORT int dup3(int fd, int copy, int flags)
{
    if (copy >= 0 && copy < MAX_FD)
        watched[copy].inode = 0;
    return duplicated(fd, REAL(dup3)(fd, copy, flags));
}

/* The third argument is an int, a pointer or nothing: a pointer's width carries each of them. */
EXPORT int fcntl(int fd, int command, ...)
{
    va_list arguments;
    va_start(arguments, command);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    int result = REAL(fcntl)(fd, command, argument);
    return command == F_DUPFD || command == F_DUPFD_CLOEXEC ? duplicated(fd, result) : result;
}

EXPORT int fcntl64(int fd, int command, ...)
{
    va_list arguments;
    va_start(arguments, command);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    return fcntl(fd, command, argument);
}
