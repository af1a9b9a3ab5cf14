/* Feeds every file of a corpus to a fuzz target, without libFuzzer: what a fuzzer once found is checked for
 * ever by any compiler. Prints one TAP line. An input that is refused is fine; a crash ends the program. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    struct stat st;
    if (!file || fstat(fileno(file), &st) != 0) {
        if (file) fclose(file);
        return -1;
    }
    /* Exactly as large as the input, so that a sanitizer sees one byte read too far. */
    size_t size = (size_t)st.st_size;
    uint8_t *data = malloc(size ? size : 1);
    int rc = data && fread(data, 1, size, file) == size ? 0 : -1;
    fclose(file);
    if (rc == 0) LLVMFuzzerTestOneInput(data, size);
    free(data);
    return rc;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    DIR *dir = opendir(argv[1]);
    if (!dir) {
        printf("not ok - corpus %s cannot be opened\n", argv[1]);
        return 1;
    }
    int n_files = 0, n_failed = 0;
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        char path[4096];
        if (e->d_name[0] == '.') continue;
        int n = snprintf(path, sizeof path, "%s/%s", argv[1], e->d_name);
        if (n < 0 || (size_t)n >= sizeof path || replay_file(path) != 0) {
            fprintf(stderr, "%s/%s cannot be read\n", argv[1], e->d_name);
            n_failed++;
        }
        n_files++;
    }
    closedir(dir);
    int ok = n_files > 0 && n_failed == 0;
    printf("%s - %d inputs of %s\n", ok ? "ok" : "not ok", n_files, argv[1]);
    return ok ? 0 : 1;
}
