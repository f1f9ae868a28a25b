// The subcommands of the one binary. Each takes its own arguments (argv[0] is the subcommand's name) and
// returns the exit code: 0 done, 1 the input was bad, 2 wrong usage. cli_X() is in X.c.
#pragma once

#include <stdbool.h>

#include "codecs/codec.h"

#define EXIT_USAGE 2

// What the program was built from; "-" where that is not known.
extern const char cli_commit[];

int cli_run(int argc, char **argv);
int cli_check(int argc, char **argv);
int cli_decode(int argc, char **argv);
int cli_encode(int argc, char **argv);
int cli_describe(int argc, char **argv);
int cli_watch(int argc, char **argv);
int cli_store(int argc, char **argv);
int cli_send(int argc, char **argv);
int cli_web(int argc, char **argv);
int cli_capture(int argc, char **argv);

// Whether the page may be served as config says, with listen in place of its own (or NULL); prints what is in the way.
struct config;
bool cli_may_serve(const struct config *config, const char *listen);

// Prints a line of what went wrong. Nothing in it is obeyed by a terminal, whatever it quotes.
__attribute__((format(printf, 2, 3))) void cli_fault(const char *subcommand, const char *format, ...);

// The same of what was wrong with the arguments, and where help is; returns EXIT_USAGE.
__attribute__((format(printf, 2, 3))) int cli_usage_fault(const char *subcommand, const char *format, ...);

// Finds the protocol that -p names (NULL: it was not given). Returns -1 and sets *codec, or prints what is
// wrong and returns EXIT_USAGE.
int cli_find_protocol(const char *subcommand, const char *name, const struct codec **codec);

// Reads the options of a subcommand that has -c FILE and -h alone; optind is then that of the first argument. Returns
// -1 and sets *file where it is given, or the exit code.
int cli_read_config(int argc, char **argv, const char *help_text, const char **file);

// Reads the configuration of a subcommand that needs those of its files (FILES_…), and prints on standard error what is
// wrong. NULL when there was any fault.
struct config *cli_load_config(const char *file, unsigned needed);

// Prints a fault of the configuration to file, a FILE *: a config_fault_fn.
void cli_print_fault(void *file, const char *path, const char *problem);
