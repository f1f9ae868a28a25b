// trackbus encode: a command, as the bytes that a device gets.
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/clock.h"
#include "gateway/base/memory.h"
#include "gateway/cli/cli.h"
#include "gateway/commands/parse.h"

static const char help[] =
    "trackbus encode -p PROTOCOL [--hex] COMMAND\n"
    "\n"
    "Prints the bytes that a device gets for a command. COMMAND is text, or JSON such as\n"
    "  {\"name\":\"mode\",\"properties\":{\"mode\":6,\"interval\":60}}\n"
    "\n"
    "  -p, --protocol PROTOCOL  one of those listed by 'trackbus describe protocols'\n"
    "      --hex                print hexadecimal digits\n"
    "\n"
    "Exit codes: 0 done, 1 the command is not valid, 2 wrong usage.\n";

static void print_bytes(const uint8_t *bytes, size_t length, bool hex) {
    for (size_t i = 0; i < length; i++) {
        if (hex)
            printf("%02x", bytes[i]);
        else
            putchar(bytes[i]);
    }
    if (hex || length == 0 || bytes[length - 1] != '\n')
        putchar('\n'); // for people; not part of the command
}

static char *encode_one(json_t *command, const struct codec *codec, bool hex) {
    uint8_t bytes[CODEC_COMMAND_MAX];
    struct codec_writer writer = {.bytes = bytes, .capacity = sizeof bytes};
    struct codec_expectation expectation;
    const struct codec_setting setting = {.now = clock_now()};
    void *session = must_have(calloc(1, codec->session_size));
    char *fault = command_check(command, codec);
    if (fault == NULL)
        fault = command_encode(command, codec, session, &setting, &writer, &expectation);
    if (fault == NULL)
        print_bytes(bytes, writer.length, hex);
    free(session);
    return fault;
}

static int encode(const char *text, const struct codec *codec, bool hex) {
    char *fault = NULL;
    json_t *commands = command_parse(text, strlen(text), &fault), *command;
    size_t i;
    json_array_foreach(commands, i, command) {
        if (fault == NULL)
            fault = encode_one(command, codec, hex);
    }
    json_decref(commands);
    if (fault != NULL)
        cli_fault("encode", "%s", fault);
    bool failed = fault != NULL;
    free(fault);
    return failed ? 1 : 0;
}

struct options {
    const char *protocol;
    const struct codec *codec;
    bool hex;
};

// -1 to go on, else the exit code.
static int read_options(int argc, char **argv, struct options *options) {
    static const struct option longs[] = {{"protocol", required_argument, NULL, 'p'},
                                          {"hex", no_argument, NULL, 'x'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
    int option;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":p:h", longs, NULL)) != -1) {
        if (option == 'h') {
            fputs(help, stdout);
            return 0;
        }
        if (option != 'p' && option != 'x')
            return cli_usage_fault(argv[0], "wrong or incomplete option '%s'", argv[optind - 1]);
        options->hex = options->hex || option == 'x';
        options->protocol = option == 'p' ? optarg : options->protocol;
    }
    return cli_find_protocol(argv[0], options->protocol, &options->codec);
}

int cli_encode(int argc, char **argv) {
    struct options options = {0};
    int code = read_options(argc, argv, &options);
    if (code >= 0)
        return code;
    if (optind + 1 != argc)
        return cli_usage_fault(argv[0], "one COMMAND, not %d; quote it as one argument", argc - optind);
    return encode(argv[optind], options.codec, options.hex);
}
