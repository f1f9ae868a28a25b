// The entry of one fuzz target. FUZZ_KIND is stream, command or config, FUZZ_CODEC the codec's variable.
#include <stdlib.h>

#include "tests/fuzz/fuzz.h"

size_t LLVMFuzzerMutate(uint8_t *bytes, size_t length, size_t capacity);
size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t length, size_t capacity, unsigned seed);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

#ifdef FUZZ_CODEC
extern const struct codec FUZZ_CODEC;
#endif

#if defined FUZZ_STREAM
size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t length, size_t capacity, unsigned seed) {
    length = LLVMFuzzerMutate(bytes, length, capacity);
    // Some inputs keep what the mutation broke: wrong checksums are to be rejected, not misread.
    if (seed % 4 != 0 && length > FUZZ_STREAM_HEAD)
        fuzz_mend(&FUZZ_CODEC, bytes + FUZZ_STREAM_HEAD, length - FUZZ_STREAM_HEAD);
    return length;
}
#endif

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length) {
#if defined FUZZ_STREAM
    fuzz_stream(&FUZZ_CODEC, bytes, length);
#elif defined FUZZ_COMMAND
    fuzz_command(&FUZZ_CODEC, bytes, length);
#else
    fuzz_config(bytes, length);
#endif
    return 0;
}
