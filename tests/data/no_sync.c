/* Loaded before libc by tests: syncs do nothing. With TWINBOX_NO_SYNC_OF only those of files that have it in their path. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int skipped(int file) {
    const char *of = getenv("TWINBOX_NO_SYNC_OF");
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (!of || length < 0) {
        return 1;
    }
    path[length] = 0;
    return strstr(path, of) != NULL;
}

int fsync(int file) {
    return skipped(file) ? 0 : syscall(SYS_fsync, file);
}

int fdatasync(int file) {
    return skipped(file) ? 0 : syscall(SYS_fdatasync, file);
}
