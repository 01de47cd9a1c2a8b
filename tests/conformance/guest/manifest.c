/*
 * Prints a line for every entry below a folder: everything about it that an image says. One static program, so that
 * the same eyes look at a container's root in the guest and at an unpacked image on the host.
 *
 *   manifest ROOT       names directly below ROOT that are a container's own are left out
 *
 * Line: path|mode|uid|gid|mtime|size|device|links|content|attributes. Bytes other than letters, digits and ._/- are
 * written as %XX. A folder's size and links are left out: file systems differ there, rightly.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

static const char *const OWN[] = {"proc", "sys", "dev", "etc", ".dockerenv"};

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void put(const unsigned char *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = bytes[i];
        int plain = (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9');
        if (plain || (byte != 0 && strchr("._/-", byte)))
            putchar(byte);
        else
            printf("%%%02X", byte);
    }
}

/* FNV-1a over eight bytes at a time: the file of 1 GiB is read in an emulated guest. */
static uint64_t hash_file(const char *path)
{
    static uint64_t words[1 << 15];
    uint64_t hash = 14695981039346656037ULL;
    int file = open(path, O_RDONLY | O_NOFOLLOW);
    if (file < 0)
        fail(path);
    for (;;) {
        size_t filled = 0;
        ssize_t count;
        while (filled < sizeof words && (count = read(file, (char *)words + filled, sizeof words - filled)) != 0) {
            if (count < 0)
                fail(path);
            filled += (size_t)count;
        }
        if (filled == 0)
            break;
        memset((char *)words + filled, 0, sizeof words - filled);
        for (size_t i = 0; i * 8 < filled; i++)
            hash = (hash ^ words[i]) * 1099511628211ULL;
    }
    close(file);
    return hash;
}

static int by_name(const void *left, const void *right)
{
    return strcmp(*(const char *const *)left, *(const char *const *)right);
}

static void put_attributes(const char *path)
{
    static char names[1 << 16], value[1 << 16];
    const char *sorted[256];
    size_t count = 0;
    ssize_t length = llistxattr(path, names, sizeof names);
    if (length < 0 && errno != ENOTSUP)
        fail(path);
    for (ssize_t at = 0; at < length && count < 256; at += (ssize_t)strlen(names + at) + 1)
        sorted[count++] = names + at;
    qsort(sorted, count, sizeof *sorted, by_name);
    for (size_t i = 0; i < count; i++) {
        if (strncmp(sorted[i], "user.rootlesscontainers", 23) == 0)
            continue; /* a note of umoci's own */
        ssize_t bytes = lgetxattr(path, sorted[i], value, sizeof value);
        if (bytes < 0)
            fail(sorted[i]);
        printf("%s=", sorted[i]);
        put((unsigned char *)value, (size_t)bytes);
        putchar(' ');
    }
}

static void put_entry(const char *path, const char *shown, const struct stat *found)
{
    int folder = S_ISDIR(found->st_mode);
    int device = S_ISCHR(found->st_mode) || S_ISBLK(found->st_mode);
    put((const unsigned char *)shown, strlen(shown));
    printf("|%o|%u|%u|%" PRId64 ".%09ld|%" PRId64 "|%u:%u|%u|", found->st_mode, found->st_uid, found->st_gid,
           (int64_t)found->st_mtim.tv_sec, found->st_mtim.tv_nsec, folder ? 0 : (int64_t)found->st_size,
           device ? major(found->st_rdev) : 0, device ? minor(found->st_rdev) : 0,
           folder ? 0 : (unsigned)found->st_nlink);
    if (S_ISLNK(found->st_mode)) {
        static char target[1 << 13];
        ssize_t length = readlink(path, target, sizeof target);
        if (length < 0)
            fail(path);
        put((unsigned char *)target, (size_t)length);
    } else if (S_ISREG(found->st_mode)) {
        printf("%016" PRIx64, hash_file(path));
    }
    putchar('|');
    put_attributes(path);
    putchar('\n');
}

static void walk(const char *folder, size_t root_length)
{
    DIR *entries = opendir(folder);
    if (!entries)
        fail(folder);
    for (struct dirent *entry; (entry = readdir(entries));) {
        int skip = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
        for (size_t i = 0; strlen(folder) == root_length && i < sizeof OWN / sizeof *OWN; i++)
            skip |= strcmp(entry->d_name, OWN[i]) == 0;
        if (skip)
            continue;
        char *path;
        struct stat found;
        if (asprintf(&path, "%s/%s", folder, entry->d_name) < 0 || lstat(path, &found) < 0)
            fail(entry->d_name);
        put_entry(path, path + root_length, &found);
        if (S_ISDIR(found.st_mode))
            walk(path, root_length);
        free(path);
    }
    closedir(entries);
}

int main(int count, char **arguments)
{
    if (count != 2) {
        fputs("usage: manifest ROOT\n", stderr);
        return 2;
    }
    /* "/" becomes "", so that paths below it start with one slash. */
    const char *root = strcmp(arguments[1], "/") == 0 ? "" : arguments[1];
    DIR *check = opendir(arguments[1]);
    if (!check)
        fail(arguments[1]);
    closedir(check);
    if (*root == '\0' && chdir("/") < 0)
        fail("/");
    walk(*root == '\0' ? "/." : root, *root == '\0' ? 2 : strlen(root));
    return 0;
}
