/* Loads the library of the first argument and calls its function twice. With a second argument, calls it in a thread,
 * unloads the library and aborts. */
#include <dlfcn.h>
#include <inttypes.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

static uint64_t (*handle_order)(size_t);

static void *handle_in_thread(void *unused) {
    (void)unused;
    printf("%" PRIu64 "\n", handle_order((size_t)4 << 20));
    return NULL;
}

int main(int argc, char **argv) {
    void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!library) {
        fprintf(stderr, "dlopen: %s\n", dlerror());
        return 2;
    }
    handle_order = (uint64_t (*)(size_t))dlsym(library, "handle_order");
    if (!handle_order) {
        fprintf(stderr, "dlsym: %s\n", dlerror());
        return 3;
    }
    if (argc > 2) {
        /* The destructors of a thread's variables are part of the library, which stays loaded until they have run. */
        pthread_t thread;
        if (pthread_create(&thread, NULL, handle_in_thread, NULL) || pthread_join(thread, NULL)) {
            return 4;
        }
        if (dlclose(library)) {
            fprintf(stderr, "dlclose: %s\n", dlerror());
            return 5;
        }
        fflush(stdout);
        abort();
    }
    printf("%" PRIu64 "\n", handle_order((size_t)4 << 20));
    printf("%" PRIu64 "\n", handle_order((size_t)1 << 20));
    return 0;
}
