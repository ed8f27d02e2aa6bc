/* Feeds the targets where there is no libFuzzer: inputs that follow from a seed, most of them changed from ones before.
 *     driver COUNT SEED [TARGET]      an input that fails is written to the file "failing" before it is tried */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST 1500u
#define KEPT 256u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t state;
static uint8_t kept[KEPT][MOST], input[MOST];
static size_t kept_size[KEPT], size;

static uint32_t draw(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 24);
}

static void make(int target)
{
    const uint32_t from = draw() % KEPT;
    uint32_t changes, place, more;
    if (kept_size[from] != 0u && draw() % 8u != 0u) {
        size = kept_size[from];
        memcpy(input, kept[from], size);
        for (changes = 1u + draw() % 6u; changes != 0u; changes--) {
            place = draw() % (uint32_t)size;
            switch (draw() % 5u) {
            case 0: input[place] ^= (uint8_t)(1u << (draw() % 8u)); break;
            case 1: input[place] = (uint8_t)draw(); break;
            case 2: input[place] = (uint8_t)(draw() % 2u ? 0u : 255u); break;
            case 3:
                if (draw() % 8u == 0u)
                    size = 1u + draw() % (uint32_t)size;
                break;
            default:
                more = 1u + draw() % 48u;
                if (size + more < MOST) {
                    memmove(input + place + more, input + place, size - place);
                    size += more;
                }
            }
        }
    } else {
        size = 1u + draw() % (draw() % 4u == 0u ? MOST - 1u : 80u);
        for (place = 0u; place < size; place++)
            input[place] = (uint8_t)(draw() % 3u == 0u ? draw() % 28u : draw());
    }
    if (target >= 0)
        input[0] = (uint8_t)target;
    if (draw() % 4u == 0u) {
        place = draw() % KEPT;
        memcpy(kept[place], input, size);
        kept_size[place] = size;
    }
}

static void keep_failing(int number)
{
    FILE *file = fopen("failing", "wb");
    if (file != NULL) {
        (void)fwrite(input, 1u, size, file);
        (void)fclose(file);
    }
    (void)signal(number, SIG_DFL);
    (void)raise(number);
}

int main(int argc, char **argv)
{
    unsigned long count = argc > 1 ? strtoul(argv[1], NULL, 10) : 100000u, i;
    uint8_t *given;
    const int target = argc > 3 ? atoi(argv[3]) : -1;
    state = 0x9E3779B97F4A7C15u ^ (argc > 2 ? strtoull(argv[2], NULL, 10) : 1u);
    (void)signal(SIGABRT, keep_failing);
    for (i = 0u; i < count; i++) {
        make(target);
        /* of its own size on the heap, so that a read beyond its end is seen */
        given = malloc(size);
        if (given == NULL)
            return 2;
        memcpy(given, input, size);
        (void)LLVMFuzzerTestOneInput(given, size);
        free(given);
    }
    printf("%lu inputs, 0 findings\n", count);
    return 0;
}
