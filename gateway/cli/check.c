// trackbus check: is a configuration valid?
#include <getopt.h> // optind
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "gateway/base/text.h"
#include "gateway/cli/broker_trial.h"
#include "gateway/cli/cli.h"
#include "gateway/cli/trial.h"
#include "gateway/config/config.h"
#include "gateway/config/environment.h"
#include "gateway/config/notes.h"
#include "gateway/web/policy.h"

static const char help[] =
    "trackbus check -c FILE\n"
    "\n"
    "Checks a configuration, with the environment variables that 'run' would use. Prints one line per\n"
    "fault: its JSON path, what is there and what was expected. Also tries what 'run' will need: to write\n"
    "the store, to read the files, to bind the ports, all as the user that runs the check, and to connect\n"
    "to the broker. A note names what is valid and yet does not work, or hardly as it is meant; a warning,\n"
    "what does not work now, and may when the gateway is started.\n"
    "\n"
    "  -c, --config FILE   the configuration\n"
    "\n"
    "Exit codes: 0 no faults, 1 faults, 2 wrong usage.\n";

// -1 to go on, else the exit code.
static int read_options(int argc, char **argv, const char **file) {
    int code = cli_read_config(argc, argv, help, file);
    if (code >= 0)
        return code;
    if (optind < argc)
        return cli_usage_fault(argv[0], "unexpected argument '%s'", argv[optind]);
    return *file == NULL ? cli_usage_fault(argv[0], "which configuration? -c is missing") : -1;
}

static void print_note(void *file, const char *path, const char *problem) {
    fprintf(file, "note: %s: %s\n", path, problem);
}

static void print_warning(void *file, const char *path, const char *problem) {
    fprintf(file, "warning: %s: %s\n", path, problem);
}

// What `run` or `web` will need to serve the page; a fault is on standard output like all others.
static bool check_web(const struct config *config) {
    char *in_use;
    bool sound = policy_check(config, NULL, cli_print_fault, stdout, &in_use) == 0;
    if (in_use != NULL)
        printf("warning: $.web.listen: \"%s\" is in use, perhaps by the gateway itself\n",
               config->web.listen);
    free(in_use);
    return sound;
}

// A broker that is away is no fault: the gateway waits for it. Ends the process when the trial cannot end.
static void check_broker(const struct config *config) {
    bool hangs;
    char *why = broker_trial(config, &hangs);
    if (why != NULL)
        printf(
            "warning: $.mqtt.url: the broker %s:%d cannot be used now: %s; the gateway tries again until it "
            "can\n",
            config->mqtt.host, config->mqtt.port, why);
    free(why);
    if (!hangs)
        return;
    fflush(stdout);
    _exit(0);
}

int cli_check(int argc, char **argv) {
    const char *file = NULL;
    int code = read_options(argc, argv, &file);
    if (code >= 0)
        return code;
    environment_notes(print_note, stdout);
    environment_strangers(print_note, stdout);
    struct config *config = config_load(file, cli_print_fault, stdout);
    bool valid = config != NULL && trial_run(config, cli_print_fault, print_warning, stdout) == 0;
    valid = config != NULL && check_web(config) && valid;
    if (valid)
        printf("%s is valid for the user %s: %zu channel%s, %zu device%s\n", file, trial_user(),
               config->channel_count, TEXT_S(config->channel_count), config->devices->count,
               TEXT_S(config->devices->count));
    else
        cli_fault("check", "not valid, checked as the user %s", trial_user());
    if (config != NULL)
        config_notes(config, print_note, stdout);
    if (valid)
        check_broker(config);
    config_free(config);
    return valid ? 0 : 1;
}
