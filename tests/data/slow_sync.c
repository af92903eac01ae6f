/* Loaded before libc by tests: every sync of a file takes TWINBOX_SYNC_TAKES_US microseconds longer, as on a slow disk;
   with TWINBOX_SYNC_SLOW_WHILE only while the file of that name exists, so that its removal also ends a sync under way. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void linger(void) {
    const char *text = getenv("TWINBOX_SYNC_TAKES_US"), *only_while = getenv("TWINBOX_SYNC_SLOW_WHILE");
    if (only_while && access(only_while, F_OK) != 0) {
        return;
    }
    long us = text ? atol(text) : 0;
    while (us > 0 && !(only_while && access(only_while, F_OK) != 0)) {
        long slice = us < 10000 ? us : 10000;
        struct timespec rest = { 0, slice * 1000 };
        while (nanosleep(&rest, &rest) != 0) { }
        us -= slice;
    }
}

int fsync(int file) {
    linger();
    return syscall(SYS_fsync, file);
}

int fdatasync(int file) {
    linger();
    return syscall(SYS_fdatasync, file);
}

int sync_file_range(int file, off_t from, off_t length, unsigned int flags) {
    linger();
    return syscall(SYS_sync_file_range, file, from, length, flags);
}
