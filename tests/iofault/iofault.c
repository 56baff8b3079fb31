/* Lets writes and syncs of a process fail as a control file says.
 *
 * Loaded by LD_PRELOAD. IOFAULT_DIR names a directory, IOFAULT_CONTROL a file outside of it that is read
 * before every write and sync below the directory. Its lines:
 *
 *   sync NAME     fsync and fdatasync of files whose name ends in NAME fail with EIO
 *   write NAME    writes to them fail with EIO
 *   space BYTES   a write that would make all files of the directory larger than this fails with ENOSPC
 *
 * Without the file, or when it is empty, nothing fails. Files below subdirectories are not counted.
 */
#undef _FORTIFY_SOURCE
#undef _FILE_OFFSET_BITS
#undef _TIME_BITS
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define REAL(name) ((__typeof__(&name))real(#name))

static char directory[PATH_MAX];
static const char *control;

static void *real(const char *name)
{
    void *symbol = dlsym(RTLD_NEXT, name);
    if (!symbol) {
        fprintf(stderr, "iofault: no %s in libc\n", name);
        abort();
    }
    return symbol;
}

__attribute__((constructor)) static void start(void)
{
    const char *dir = getenv("IOFAULT_DIR");
    control = getenv("IOFAULT_CONTROL");
    if (!dir || !control || !realpath(dir, directory)) {
        fprintf(stderr, "iofault: IOFAULT_DIR and IOFAULT_CONTROL must name what is there\n");
        abort();
    }
}

/* The path of a descriptor, if it is below the directory. */
static int below(int fd, char path[PATH_MAX])
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0)
        return 0;
    path[length] = '\0';
    size_t prefix = strlen(directory);
    return strncmp(path, directory, prefix) == 0 && path[prefix] == '/';
}

static size_t rules(char text[1024])
{
    int fd = open(control, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t length = read(fd, text, 1023);
    close(fd);
    text[length > 0 ? length : 0] = '\0';
    return length > 0 ? (size_t)length : 0;
}

static long long used(void)
{
    long long sum = 0;
    DIR *dir = opendir(directory);
    if (!dir)
        return 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        struct stat stat;
        if (fstatat(dirfd(dir), entry->d_name, &stat, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(stat.st_mode))
            sum += stat.st_size;
    }
    closedir(dir);
    return sum;
}

static int ends_with(const char *path, const char *name)
{
    size_t length = strlen(path), end = strlen(name);
    return length >= end && strcmp(path + length - end, name) == 0;
}

/* The error that an operation is to fail with, or 0. `grows` is by how much the file gets longer. */
static int fault(int fd, const char *operation, long long grows)
{
    char path[PATH_MAX], text[1024], verb[32], name[256];
    int saved = errno, found = 0;
    if (!control || !below(fd, path) || !rules(text))
        return errno = saved, 0;
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line && !found; line = strtok_r(NULL, "\n", &rest)) {
        if (sscanf(line, "%31s %255s", verb, name) != 2)
            continue;
        if (strcmp(verb, operation) == 0 && ends_with(path, name))
            found = EIO;
        /* The index in shared memory takes no space of the disk that matters here. */
        if (strcmp(verb, "space") == 0 && grows > 0 && !ends_with(path, "-shm") && used() + grows > atoll(name))
            found = ENOSPC;
    }
    errno = saved;
    return found;
}

static long long growth(int fd, long long end)
{
    struct stat stat;
    return fstat(fd, &stat) == 0 && end > stat.st_size ? end - stat.st_size : 0;
}

EXPORT ssize_t pwrite(int fd, const void *data, size_t length, off_t offset)
{
    int error = fault(fd, "write", growth(fd, offset + (long long)length));
    if (error)
        return errno = error, -1;
    return REAL(pwrite)(fd, data, length, offset);
}

EXPORT ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset)
{
    return pwrite(fd, data, length, offset);
}

EXPORT ssize_t write(int fd, const void *data, size_t length)
{
    off_t at = lseek(fd, 0, SEEK_CUR);
    int error = at < 0 ? 0 : fault(fd, "write", growth(fd, at + (long long)length));
    if (error)
        return errno = error, -1;
    return REAL(write)(fd, data, length);
}

EXPORT int fsync(int fd)
{
    int error = fault(fd, "sync", 0);
    if (error)
        return errno = error, -1;
    return REAL(fsync)(fd);
}

EXPORT int fdatasync(int fd)
{
    int error = fault(fd, "sync", 0);
    if (error)
        return errno = error, -1;
    return REAL(fdatasync)(fd);
}
