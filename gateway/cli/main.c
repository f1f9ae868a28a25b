// trackbus: the command line.
#include <fcntl.h>
#include <getopt.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/base/clean.h"
#include "gateway/base/text.h"
#include "gateway/cli/cli.h"
#include "gateway/config/config.h"
#include "gateway/config/environment.h"
#include "schema/schemas.h"

static const char help[] =
    "trackbus: a gateway between GPS trackers and MQTT\n"
    "\n"
    "  trackbus run [-c FILE] [--workers N]   run the gateway in the foreground\n"
    "  trackbus watch [-c FILE] [DEVICE]      see what comes through the broker\n"
    "  trackbus web [-c FILE] [--listen ADDRESS:PORT]\n"
    "                                         serve the page, the API and the metrics\n"
    "  trackbus send [-c FILE] DEVICE COMMAND send a command and follow its life\n"
    "  trackbus capture [-c FILE] DEVICE      see the bytes of a device, both directions\n"
    "  trackbus store list|resend|drop        what the broker did not take\n"
    "  trackbus check -c FILE                 check a configuration\n"
    "  trackbus decode -p PROTOCOL [FILE]     print the messages in a capture\n"
    "  trackbus encode -p PROTOCOL COMMAND    print the bytes of a command\n"
    "  trackbus describe fields|commands|protocols\n"
    "  trackbus help [COMMAND], version       also --help, -h and --version\n"
    "\n"
    "Exit codes: 0 done, 1 something in the input was wrong, 2 wrong usage; of send also 3: how the\n"
    "command ends is not known.\n";

static const struct subcommand {
    const char *name;
    int (*run)(int argc, char **argv);
} subcommands[] = {
    {"run", cli_run},           {"check", cli_check}, {"decode", cli_decode}, {"encode", cli_encode},
    {"describe", cli_describe}, {"watch", cli_watch}, {"store", cli_store},   {"send", cli_send},
    {"capture", cli_capture},   {"web", cli_web},
};

static void print_fault(const char *subcommand, const char *format, va_list arguments) {
    char *text = text_vformat(format, arguments), clean[2048];
    fprintf(stderr, "trackbus%s%s: %s\n", *subcommand != '\0' ? " " : "", subcommand,
            clean_text(text, strlen(text), clean, sizeof clean));
    free(text);
}

void cli_fault(const char *subcommand, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    print_fault(subcommand, format, arguments);
    va_end(arguments);
}

int cli_usage_fault(const char *subcommand, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    print_fault(subcommand, format, arguments);
    va_end(arguments);
    fprintf(stderr, "Try: trackbus%s%s --help\n", *subcommand != '\0' ? " " : "", subcommand);
    return EXIT_USAGE;
}

int cli_find_protocol(const char *subcommand, const char *name, const struct codec **codec) {
    if (name == NULL)
        return cli_usage_fault(subcommand, "which protocol? -p is missing");
    const struct codec *found = codec_find(name);
    if (found == NULL)
        return cli_usage_fault(subcommand, "there is no protocol '%s'; see: trackbus describe protocols",
                               name);
    *codec = found;
    return -1;
}

int cli_read_config(int argc, char **argv, const char *help_text, const char **file) {
    static const struct option longs[] = {
        {"config", required_argument, NULL, 'c'}, {"help", no_argument, NULL, 'h'}, {0}};
    int option;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":c:h", longs, NULL)) != -1) {
        if (option == 'h') {
            fputs(help_text, stdout);
            return 0;
        }
        if (option != 'c')
            return cli_usage_fault(argv[0], "wrong or incomplete option '%s'", argv[optind - 1]);
        *file = optarg;
    }
    return -1;
}

void cli_print_fault(void *file, const char *path, const char *problem) {
    char where[512], what[1024];
    fprintf(file, "%s: %s\n", clean_text(path, strlen(path), where, sizeof where),
            clean_text(problem, strlen(problem), what, sizeof what));
}

static void print_note(void *file, const char *path, const char *problem) {
    fputs("note: ", file);
    cli_print_fault(file, path, problem);
}

struct config *cli_load_config(const char *file, unsigned needed) {
    environment_strangers(print_note, stderr);
    return config_load_with(file, needed, cli_print_fault, stderr);
}

static int run(const char *name, int argc, char **argv) {
    for (size_t i = 0; i < sizeof subcommands / sizeof subcommands[0]; i++) {
        if (strcmp(name, subcommands[i].name) != 0)
            continue;
        int code = subcommands[i].run(argc, argv);
        schema_free_all();
        return code;
    }
    return cli_usage_fault("", "there is no subcommand '%s'", name);
}

// The general help says all of these.
static bool is_in_first_help(const char *name) {
    return strcmp(name, "help") == 0 || strcmp(name, "version") == 0 || strcmp(name, "--help") == 0;
}

// `trackbus help COMMAND` is `trackbus COMMAND --help`.
static int help_with(int argc, char **argv) {
    char option[] = "--help";
    if (argc > 1 && !is_in_first_help(argv[1]))
        return run(argv[1], 2, (char *[]){argv[1], option, NULL});
    fputs(help, stdout);
    return 0;
}

static void print_version(void) {
    fputs("trackbus " TRACKBUS_VERSION, stdout);
    if (strcmp(cli_commit, "-") != 0)
        printf(" (%s)", cli_commit);
    putchar('\n');
}

// glibc keeps small pieces that were freed apart, and joins all of them at once when somebody asks for a large one: 18 ms
// after a registry of 100,000 devices was replaced. From now on nearly each is joined when it is freed.
static void join_memory_at_once(void) {
#ifdef M_MXFAST
    mallopt(M_MXFAST, 0);
#endif
}

// Where one of them is closed, what is opened next would take its place: libuv aborts when it closes that, and what is
// logged would go there.
static void have_standard_files(void) {
    int file;
    do
        file = open("/dev/null", O_RDWR);
    while (file >= 0 && file <= STDERR_FILENO);
    if (file >= 0)
        close(file);
}

int main(int argc, char **argv) {
    have_standard_files();
    join_memory_at_once();
    if (argc < 2) {
        fputs(help, stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        fputs(help, stdout);
        return 0;
    }
    if (strcmp(argv[1], "help") == 0)
        return help_with(argc - 1, argv + 1);
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "version") == 0) {
        print_version();
        return 0;
    }
    return run(argv[1], argc - 1, argv + 1);
}
