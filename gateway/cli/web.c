// trackbus web: the page, the API and the metrics of all gateways on the broker; and its users.
#include "gateway/web/web.h"

#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "gateway/cli/cli.h"
#include "gateway/config/config.h"
#include "gateway/web/login.h"
#include "gateway/web/policy.h"

#define PASSWORD_MAX 256

static const char help[] =
    "trackbus web [-c FILE] [--listen ADDRESS:PORT]\n"
    "trackbus web [-c FILE] (--add-user | --add-token) NAME\n"
    "\n"
    "Serves the page, the HTTP API (/api/openapi.json describes it) and the metrics (/metrics) of all\n"
    "gateways on the broker, until SIGINT or SIGTERM. An address that others reach needs users\n"
    "(web.users_file) and TLS (web.cert_file), or a proxy that does TLS (web.behind_proxy).\n"
    "\n"
    "  -c, --config FILE            the gateway's configuration; its sections mqtt, web and log are used\n"
    "  -l, --listen ADDRESS:PORT    where to listen, in place of web.listen; such as 127.0.0.1:7780\n"
    "      --add-user NAME          adds a user to web.users_file, or changes his password, which is\n"
    "                               asked for, or read from the first line of standard input\n"
    "      --add-token NAME         adds a token to web.users_file, with which a program is that user, and\n"
    "                               prints it; it is shown only now\n"
    "\n"
    "Environment: TRACKBUS_MQTT_URL, TRACKBUS_MQTT_USERNAME, TRACKBUS_MQTT_PASSWORD and\n"
    "TRACKBUS_TOPIC_PREFIX override the file, and so do names made of any key: TRACKBUS_WEB__LISTEN is\n"
    "web.listen.\n";

struct options {
    const char *file, *listen, *user, *token;
};

bool cli_may_serve(const struct config *config, const char *listen) {
    char *in_use;
    bool may = policy_check(config, listen, cli_print_fault, stderr, &in_use) == 0 && in_use == NULL;
    if (in_use != NULL)
        fprintf(stderr, "$.web.listen: %s\n", in_use);
    free(in_use);
    return may;
}

static int serve(struct config *config, const char *listen) {
    if (listen == NULL && config->web.listen == NULL)
        return cli_usage_fault("web", "where to listen? Set web.listen, or say --listen 127.0.0.1:7780");
    return cli_may_serve(config, listen) ? web_run(config, listen) : 1;
}

// Without an echo on a terminal. False at the end of the input.
static bool ask(const char *question, char password[PASSWORD_MAX]) {
    struct termios usual, silent;
    bool terminal = tcgetattr(STDIN_FILENO, &usual) == 0;
    if (terminal) {
        silent = usual;
        silent.c_lflag &= ~(tcflag_t)ECHO;
        fputs(question, stderr);
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &silent);
    }
    bool read = fgets(password, PASSWORD_MAX, stdin) != NULL;
    if (terminal) {
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &usual);
        fputc('\n', stderr);
    }
    if (read)
        password[strcspn(password, "\r\n")] = '\0';
    return read;
}

static bool ask_twice(char password[PASSWORD_MAX]) {
    char again[PASSWORD_MAX];
    if (!ask("Password: ", password))
        return false;
    return !isatty(STDIN_FILENO) || (ask("Again: ", again) && strcmp(password, again) == 0);
}

static int add_user(const struct config *config, const char *name) {
    char password[PASSWORD_MAX];
    if (!ask_twice(password)) {
        fputs("trackbus web: no password, or not the same one twice; nothing was changed\n", stderr);
        return 1;
    }
    char *reason = login_add_user(config->web.users_file, name, password);
    explicit_bzero(password, sizeof password);
    if (reason != NULL)
        cli_fault("web", "%s", reason);
    else
        printf("%s may log in; %s has the hash of the password\n", name, config->web.users_file);
    int code = reason != NULL;
    free(reason);
    return code;
}

// The token alone goes to standard output.
static int add_token(const struct config *config, const char *name) {
    char token[LOGIN_TOKEN_SIZE];
    char *reason = login_add_token(config->web.users_file, name, token);
    if (reason != NULL) {
        cli_fault("web", "%s", reason);
        free(reason);
        return 1;
    }
    puts(token);
    fprintf(stderr, "Who sends this token is %s; it is not shown again: %s has its hash\n", name,
            config->web.users_file);
    return 0;
}

static int change_users(const struct config *config, const struct options *options) {
    if (config->web.users_file == NULL)
        return cli_usage_fault("web", "to which file? Set web.users_file in the configuration");
    return options->user != NULL ? add_user(config, options->user) : add_token(config, options->token);
}

// -1 to go on, else the exit code.
static int read_options(int argc, char **argv, struct options *options) {
    static const struct option longs[] = {
        {"config", required_argument, NULL, 'c'},   {"listen", required_argument, NULL, 'l'},
        {"add-user", required_argument, NULL, 'u'}, {"add-token", required_argument, NULL, 't'},
        {"help", no_argument, NULL, 'h'},           {0}};
    int option;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":c:l:h", longs, NULL)) != -1) {
        if (option == 'h') {
            fputs(help, stdout);
            return 0;
        }
        if (option == 'c')
            options->file = optarg;
        else if (option == 'l')
            options->listen = optarg;
        else if (option == 'u')
            options->user = optarg;
        else if (option == 't')
            options->token = optarg;
        else
            return cli_usage_fault(argv[0], "wrong or incomplete option '%s'", argv[optind - 1]);
    }
    if (options->user != NULL && options->token != NULL)
        return cli_usage_fault(argv[0], "--add-user and --add-token are two calls");
    return optind < argc ? cli_usage_fault(argv[0], "unexpected argument '%s'", argv[optind]) : -1;
}

int cli_web(int argc, char **argv) {
    struct options options = {0};
    int code = read_options(argc, argv, &options);
    if (code >= 0)
        return code;
    bool changes = options.user != NULL || options.token != NULL;
    unsigned needed = changes ? FILES_OF_WEB | FILES_TO_MAKE : FILES_OF_MQTT | FILES_OF_WEB;
    struct config *config = cli_load_config(options.file, needed);
    if (config == NULL)
        return 1;
    code = changes ? change_users(config, &options) : serve(config, options.listen);
    config_free(config);
    return code;
}
