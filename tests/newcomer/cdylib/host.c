/* Loads the library of the first argument and calls its function twice. */
#include <dlfcn.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>

int main(int argc, char **argv) {
    void *library = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!library) {
        fprintf(stderr, "dlopen: %s\n", dlerror());
        return 2;
    }
    uint64_t (*handle_order)(size_t) = (uint64_t (*)(size_t))dlsym(library, "handle_order");
    if (!handle_order) {
        fprintf(stderr, "dlsym: %s\n", dlerror());
        return 3;
    }
    printf("%" PRIu64 "\n", handle_order((size_t)4 << 20));
    printf("%" PRIu64 "\n", handle_order((size_t)1 << 20));
    return 0;
}
