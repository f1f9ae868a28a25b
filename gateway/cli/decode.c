// trackbus decode: a capture to messages, offline.
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/hex.h"
#include "gateway/base/memory.h"
#include "gateway/cli/capture_file.h"
#include "gateway/cli/cli.h"
#include "gateway/cli/decode_capture.h"
#include "gateway/cli/decoding.h"

static const char help[] =
    "trackbus decode -p PROTOCOL [--hex] [--udp] [--now UNIX_SECONDS] [--explain] [FILE]\n"
    "\n"
    "Prints each message in a capture (standard input without FILE) as one line of JSON. What was\n"
    "rejected, skipped or left out goes to standard error as 'offset N: VERDICT: reason'.\n"
    "\n"
    "  -p, --protocol PROTOCOL  one of those listed by 'trackbus describe protocols'; only a file of\n"
    "                           'trackbus capture' goes without\n"
    "      --hex                the capture is hexadecimal text; whitespace is ignored\n"
    "      --udp                each line is a datagram; otherwise all of it is one TCP stream\n"
    "      --now UNIX_SECONDS   the time of receipt, instead of now\n"
    "      --explain            also says what each byte of a frame is, and which row of the codec's\n"
    "                           tables says so; which replies go to the device; and where in the bytes\n"
    "                           a fault is\n"
    "\n"
    "A file of 'trackbus capture' is known by its first line. It says protocol, transport and time itself,\n"
    "so that none of these options is needed. Standard error then says of each chunk what became of it,\n"
    "and marks the byte where a fault is.\n"
    "\n"
    "Exit codes: 0 everything was understood, 1 something was rejected, 2 wrong usage.\n";

struct options {
    const char *protocol;
    const struct codec *codec;
    bool hex, udp, explain;
    int64_t now; // microseconds; 0: the clock's
    const char *file;
};

static uint8_t *read_all(FILE *file, size_t *length) {
    size_t capacity = 65536, got;
    uint8_t *bytes = must_have(malloc(capacity));
    *length = 0;
    while ((got = fread(bytes + *length, 1, capacity - *length, file)) > 0) {
        *length += got;
        if (*length == capacity) {
            capacity *= 2;
            bytes = must_have(realloc(bytes, capacity));
        }
    }
    return bytes;
}

// In place. False when the text is not hexadecimal; *length then is the offset of what is not.
static bool unhex(uint8_t *bytes, size_t *length) {
    size_t out = 0;
    int high = -1;
    for (size_t i = 0; i < *length; i++) {
        int value = hex_digit((char)bytes[i]);
        if (value < 0 && strchr(" \t\r\n\v\f", bytes[i]) != NULL && bytes[i] != '\0')
            continue;
        if (value < 0) {
            *length = i;
            return false;
        }
        if (high >= 0)
            bytes[out++] = (uint8_t)(high << 4 | value);
        high = high >= 0 ? -1 : value;
    }
    bool even = high < 0;
    if (even)
        *length = out;
    return even;
}

static bool feed(struct decoding *decoding, const struct options *options, uint8_t *bytes, size_t length) {
    if (options->hex && !unhex(bytes, &length)) {
        fprintf(stderr, "offset %llu: BAD_VALUE: not hexadecimal: digits in pairs, and whitespace\n",
                (unsigned long long)(decoding->stream.offset + length));
        decoding->rejected = true;
        return true;
    }
    enum stream_state state = decoding_feed(decoding, bytes, length, CODEC_END);
    if (state != STREAM_OPEN && !options->udp)
        fprintf(stderr, "offset %llu: the gateway would close the connection here\n",
                (unsigned long long)decoding->stream.offset);
    return state == STREAM_OPEN;
}

// Each line is a datagram; what is broken in one does not affect the next.
static void feed_lines(struct decoding *decoding, const struct options *options, uint8_t *bytes,
                       size_t length) {
    for (size_t at = 0; at < length;) {
        uint8_t *end = memchr(bytes + at, '\n', length - at);
        size_t line = end != NULL ? (size_t)(end - (bytes + at)) : length - at;
        decoding->stream.junk_in_a_row = 0;
        decoding->stream.offset = at; // line ends count, and what was left of a broken datagram
        feed(decoding, options, bytes + at, line);
        at += line + 1;
    }
}

static int decode_bytes(const struct options *options, uint8_t *bytes, size_t length) {
    struct decoding decoding = {.now = options->now};
    decoding_begin(&decoding, options->codec, options->udp, options->explain);
    if (options->udp)
        feed_lines(&decoding, options, bytes, length);
    else
        feed(&decoding, options, bytes, length);
    decoding_end(&decoding);
    return decoding.rejected ? 1 : 0;
}

static int decode(struct options *options, const char *subcommand, FILE *file) {
    size_t length;
    uint8_t *bytes = read_all(file, &length);
    int code = -1;
    if (options->protocol != NULL || !capture_file_is((const char *)bytes, length))
        code = cli_find_protocol(subcommand, options->protocol, &options->codec);
    if (code < 0 && capture_file_is((const char *)bytes, length))
        code = decode_capture((const char *)bytes, length, options->codec, options->explain, options->now);
    else if (code < 0)
        code = decode_bytes(options, bytes, length);
    free(bytes);
    return code;
}

static bool read_now(const char *text, int64_t *now) {
    struct decimal seconds;
    if (!decimal_parse(text, strlen(text), &seconds) || !decimal_in_range(seconds, 0, 253402300799))
        return false;
    *now = (int64_t)(decimal_to_double(seconds) * 1e6 + 0.5);
    return true;
}

// -1 to go on, else the exit code.
static int take_option(char **argv, int option, struct options *options) {
    if (option == 'h') {
        fputs(help, stdout);
        return 0;
    }
    if (option == 'p')
        options->protocol = optarg;
    else if (option == 'x')
        options->hex = true;
    else if (option == 'u')
        options->udp = true;
    else if (option == 'e')
        options->explain = true;
    else if (option != 'n')
        return cli_usage_fault(argv[0], "wrong or incomplete option '%s'", argv[optind - 1]);
    else if (!read_now(optarg, &options->now))
        return cli_usage_fault(argv[0], "--now takes Unix seconds, not '%s'", optarg);
    return -1;
}

static int read_options(int argc, char **argv, struct options *options) {
    static const struct option longs[] = {
        {"protocol", required_argument, NULL, 'p'},
        {"hex", no_argument, NULL, 'x'},
        {"udp", no_argument, NULL, 'u'},
        {"now", required_argument, NULL, 'n'},
        {"explain", no_argument, NULL, 'e'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    int option, code = -1;
    opterr = 0;
    while (code < 0 && (option = getopt_long(argc, argv, ":p:h", longs, NULL)) != -1)
        code = take_option(argv, option, options);
    if (code < 0 && options->protocol != NULL)
        code = cli_find_protocol(argv[0], options->protocol, &options->codec);
    if (code < 0 && optind + 1 < argc)
        code = cli_usage_fault(argv[0], "one FILE, not %d", argc - optind);
    options->file = argv[optind];
    return code;
}

int cli_decode(int argc, char **argv) {
    struct options options = {0};
    int code = read_options(argc, argv, &options);
    if (code >= 0)
        return code;
    FILE *file = options.file == NULL || strcmp(options.file, "-") == 0 ? stdin : fopen(options.file, "rb");
    if (file == NULL)
        return cli_usage_fault(argv[0], "cannot read %s: %s", options.file, strerror(errno));
    code = decode(&options, argv[0], file);
    if (file != stdin)
        fclose(file);
    return code;
}
