/* stamp FILE SECONDS NAME: appends the time of its first instruction, in nanoseconds since
 * 1970, its process and NAME to FILE, and lives on for so long. */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (argc != 4) return 2;
    char line[512];
    int length = snprintf(line, sizeof line, "%lld%09ld %ld %s\n", (long long)now.tv_sec,
                          now.tv_nsec, (long)getpid(), argv[3]);
    if (length < 0 || length >= (int)sizeof line) return 2;
    int file = open(argv[1], O_WRONLY | O_APPEND | O_CREAT, 0666);
    if (file < 0 || write(file, line, length) != length) return 1;
    close(file);
    sleep(atoi(argv[2]));
    return 0;
}
