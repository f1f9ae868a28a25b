// trackbus decode: a capture to messages, offline.
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/clean.h"
#include "gateway/base/clock.h"
#include "gateway/base/hex.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/channels/message_stamp.h"
#include "gateway/channels/stream.h"
#include "gateway/cli/cli.h"
#include "gateway/cli/explaining.h"
#include "gateway/commands/parse.h"

static const char help[] =
    "trackbus decode -p PROTOCOL [--hex] [--udp] [--now UNIX_SECONDS] [--explain] [FILE]\n"
    "\n"
    "Prints each message in a capture (standard input without FILE) as one line of JSON. What was\n"
    "rejected, skipped or left out goes to standard error as 'offset N: VERDICT: reason'.\n"
    "\n"
    "  -p, --protocol PROTOCOL  one of those listed by 'trackbus describe protocols'\n"
    "      --hex                the capture is hexadecimal text; whitespace is ignored\n"
    "      --udp                each line is a datagram; otherwise all of it is one TCP stream\n"
    "      --now UNIX_SECONDS   the time of receipt, instead of now\n"
    "      --explain            also says what each byte of a frame is, and which row of the codec's\n"
    "                           tables says so; which replies go to the device; and where in the bytes\n"
    "                           a fault is\n"
    "\n"
    "Exit codes: 0 everything was understood, 1 something was rejected, 2 wrong usage.\n";

struct options {
    const char *protocol;
    const struct codec *codec;
    bool hex, udp, explain;
    int64_t now; // microseconds; 0: the clock's
    const char *file;
};

struct decoding {
    struct stream stream;
    int64_t now;
    bool rejected;
    struct explaining *explaining; // or NULL
};

static enum codec_identity take_ident(void *context, const char *ident) {
    return CODEC_ACCEPTED;
}

static int64_t now_of(const struct decoding *decoding) {
    return decoding->now != 0 ? decoding->now : clock_now();
}

static void print_escaped(const char *text, FILE *file) {
    for (; *text != '\0'; text++) {
        if (*text >= ' ' && *text <= '~')
            fputc(*text, file);
        else
            fprintf(file, "\\x%02x", (unsigned char)*text);
    }
}

static void print_removed(struct decoding *decoding, const struct message *message) {
    for (size_t i = 0; i < message->removed_count && i < MESSAGE_REMOVED_MAX; i++) {
        const struct message_removed *removed = &message->removed[i];
        bool absent = removed->reason == message_absent;
        fprintf(stderr, "offset %llu: %s: %s is left out: ", (unsigned long long)decoding->stream.offset,
                absent ? "OK" : "BAD_VALUE", field_table[removed->field].name);
        fputs(absent ? "" : "'", stderr);
        print_escaped(removed->text, stderr);
        fprintf(stderr, "%s%s\n", absent ? "" : "' is ", removed->reason);
        decoding->rejected = decoding->rejected || !absent;
    }
}

static void print_message(void *context, struct message *message) {
    static char json[MESSAGE_JSON_MAX];
    static struct message_member members[MESSAGE_VALUES_MAX];
    size_t count;
    struct decoding *decoding = context;
    message_stamp(message,
                  &(struct message_origin){.codec = decoding->stream.codec, .received = now_of(decoding)});
    print_removed(decoding, message);
    clean_print_json(json, message_write_members(message, json, sizeof json, members, &count), stdout);
    putchar('\n');
    if (decoding->explaining != NULL)
        explaining_message(decoding->explaining, message, members, count);
}

static void print_reply(void *context, const uint8_t *bytes, size_t length, enum codec_reply_when when) {
    static const char *const when_names[] = {[CODEC_NOW] = "at once",
                                             [CODEC_WHEN_SAFE] = "once its messages are safe",
                                             [CODEC_WHEN_REFUSED] = "if the broker refuses a message"};
    const struct decoding *decoding = context;
    char hex[2 * CODEC_COMMAND_MAX + 1];
    if (decoding->explaining != NULL && length <= CODEC_COMMAND_MAX)
        printf("reply %s: %s\n", when_names[when], hex_write(bytes, length, hex));
}

static void print_frame(void *context, const struct stream_frame *frame) {
    const struct decoding *decoding = context;
    if (decoding->explaining != NULL)
        explaining_frame(decoding->explaining, frame);
}

static void print_answer(void *context, const struct codec_answer *answer) {
    const struct decoding *decoding = context;
    if (answer->implicit)
        return;
    const char *ident = decoding->stream.ident;
    json_t *line = json_pack("{s:s?, s:o}", "ident", *ident != '\0' ? ident : NULL, "command.reply",
                             command_response(answer));
    char *text = text_of_json(line, TEXT_VALUE_DIGITS);
    clean_print_json(text, strlen(text), stdout);
    putchar('\n');
    free(text);
    json_decref(line);
}

static void print_fault(void *context, const struct stream_fault *fault) {
    struct decoding *decoding = context;
    decoding->rejected = true;
    fflush(stdout); // so that it stands behind what came before it
    fprintf(stderr, "offset %llu: %s: %s (%zu bytes)\n", (unsigned long long)fault->offset, fault->verdict,
            fault->reason, fault->length);
    if (decoding->explaining != NULL)
        explaining_fault(fault, stderr);
}

static const struct stream_sink sink = {
    .identify = take_ident,
    .message = print_message,
    .reply = print_reply,
    .answer = print_answer,
    .fault = print_fault,
    .frame = print_frame,
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
    decoding->stream.setting.now = now_of(decoding);
    enum stream_state state = stream_feed(&decoding->stream, bytes, length, CODEC_END);
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

static int decode(const struct options *options, FILE *file) {
    struct stream_counters counters = {0};
    struct decoding decoding = {.now = options->now};
    size_t length;
    uint8_t *bytes = read_all(file, &length);
    stream_init(&decoding.stream, options->codec, &sink, &decoding, &counters);
    if (options->explain)
        decoding.explaining = explaining_new(&decoding.stream);
    decoding.stream.setting.transport = options->udp ? CODEC_UDP : CODEC_TCP;
    if (options->udp)
        feed_lines(&decoding, options, bytes, length);
    else
        feed(&decoding, options, bytes, length);
    stream_free(&decoding.stream);
    explaining_free(decoding.explaining);
    free(bytes);
    return decoding.rejected ? 1 : 0;
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
    if (code < 0)
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
    code = decode(&options, file);
    if (file != stdin)
        fclose(file);
    return code;
}
