// What the pages show to type is typed, and what they show as its output must come out. Only ports, files'
// places and the broker's address are the test's.
#include <criterion/criterion.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "schema/schemas.h"
#include "tests/e2e/rig.h"
#include "tests/pages.h"

TestSuite(readme_commands, .fini = rig_clean);

#define IDENT             "866425031361423"
#define PATH_SIZE         160
#define OMITTED           "…"
#define COMMAND_FILE_SIZE 64

// --- a shell ---

static void put_file(const struct rig *rig, const char *name, const char *text) {
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/%s", rig->directory, name);
    FILE *file = fopen(path, "w");
    cr_assert(file != NULL);
    fputs(text, file);
    fclose(file);
}

// `trackbus` is the one that was built, and Mosquitto's clients know the test's broker.
static void set_up_shell(const struct rig *rig) {
    static const char *const clients[] = {"mosquitto_sub", "mosquitto_pub", "mosquitto_rr"};
    char options[COMMAND_FILE_SIZE], path[4096], binary[] = TRACKBUS_BINARY;
    snprintf(options, sizeof options, "-h 127.0.0.1\n-p %d\n", rig->broker_port);
    for (size_t i = 0; i < sizeof clients / sizeof clients[0]; i++)
        put_file(rig, clients[i], options);
    setenv("XDG_CONFIG_HOME", rig->directory, 1);
    *strrchr(binary, '/') = '\0';
    snprintf(path, sizeof path, "%s:%s", binary, getenv("PATH"));
    setenv("PATH", path, 1);
}

// Starts a command with its output in a file; it ends with the test.
static pid_t start(const char *command, const char *output) {
    pid_t parent = getpid(), pid = fork();
    cr_assert(pid >= 0);
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(127);
    int file = open(output, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(file, STDOUT_FILENO);
    char *line;
    if (asprintf(&line, "exec %s", command) > 0)
        execl("/bin/sh", "sh", "-c", line, (char *)NULL);
    _exit(127);
}

static pid_t start_block(const struct rig *rig, const char *name, char output[PATH_SIZE]) {
    char *command = page_block(name);
    snprintf(output, PATH_SIZE, "%s/%s", rig->directory, name);
    pid_t pid = start(command, output);
    free(command);
    return pid;
}

static void run(const char *command, const char *output) {
    char *line;
    cr_assert(asprintf(&line, "{ %s\n} >%s", command, output) > 0);
    int status = system(line);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "it fails: %s", command);
    free(line);
}

// text with every occurrence of from replaced; for the caller to free, who gives up text. There must be one.
static char *replaced(char *text, const char *from, const char *to) {
    char *result = NULL, *rest = text;
    size_t length = 0;
    FILE *memory = open_memstream(&result, &length);
    cr_assert(strstr(text, from) != NULL, "no '%s' in: %s", from, text);
    for (char *at; (at = strstr(rest, from)) != NULL; rest = at + strlen(from))
        fprintf(memory, "%.*s%s", (int)(at - rest), rest, to);
    fputs(rest, memory);
    fclose(memory);
    free(text);
    return result;
}

// --- what comes out ---

// Whether line is what the page shows, where … stands for anything.
static bool is_shown(const char *line, const char *shown) {
    size_t length = strcspn(shown, "\n");
    const char *gap = strstr(shown, OMITTED);
    if (gap == NULL || (size_t)(gap - shown) > length)
        return strlen(line) == length && strncmp(line, shown, length) == 0;
    if (strncmp(line, shown, (size_t)(gap - shown)) != 0)
        return false;
    for (line += gap - shown; *line != '\0'; line++)
        if (is_shown(line, gap + strlen(OMITTED)))
            return true;
    return false;
}

struct expected_output {
    const char *path, *text;
    bool is_part; // of a line; otherwise a whole line as a page shows it
};

static bool has_come(void *context) {
    const struct expected_output *expected = context;
    bool found = false;
    char *line = NULL;
    size_t capacity = 0;
    FILE *file = fopen(expected->path, "r");
    while (file != NULL && !found && getline(&line, &capacity, file) > 0) {
        line[strcspn(line, "\n")] = '\0';
        found = expected->is_part ? strstr(line, expected->text) != NULL : is_shown(line, expected->text);
    }
    free(line);
    if (file != NULL)
        fclose(file);
    return found;
}

static void expect_output(const char *path, const char *block) {
    char *shown = page_block(block);
    struct expected_output expected = {path, shown, false};
    cr_assert(rig_wait(has_come, &expected, RIG_DEADLINE), "it does not print what the page shows: %s",
              shown);
    free(shown);
}

// --- the first tracker ---

static void expect_default_port(const char *report) {
    const json_t *properties = json_object_get(schema_find("config.schema.json"), "properties");
    const json_t *channels = json_object_get(json_object_get(properties, "channels"), "default");
    const char *address = json_string_value(json_object_get(json_array_get(channels, 0), "tcp"));
    cr_assert(strstr(report, "127.0.0.1 7700") != NULL && strcmp(address, "0.0.0.0:7700") == 0);
}

static void play_first_tracker(struct rig *rig) {
    char port[32];
    char *report = page_block("first-tracker-report");
    expect_default_port(report);
    snprintf(port, sizeof port, "127.0.0.1 %d", rig_tcp_port(rig, "mictrack"));
    report = replaced(report, "127.0.0.1 7700", port);
    run(report, "/dev/null");
    free(report);
}

Test(readme_commands, first_tracker) {
    char output[PATH_SIZE];
    struct rig *rig = rig_up(NULL);
    set_up_shell(rig);
    char *gateway = page_block("first-tracker-gateway");
    cr_assert_str_eq(gateway, "trackbus run\n"); // the rig's is like it, but for its ports
    free(gateway);

    pid_t subscriber = start_block(rig, "first-tracker-subscriber", output);
    struct expected_output online = {output, "/state/gw/instances/", true};
    cr_assert(rig_wait(has_come, &online, RIG_DEADLINE), "the subscriber hears nothing");

    play_first_tracker(rig);
    expect_output(output, "first-tracker-output");
    kill(subscriber, SIGTERM);
    waitpid(subscriber, NULL, 0);
    rig_finish(rig);
}

static void obey(int device) {
    device_expect(device, "mode,6,60#");
    device_send(device, "mode=Success!\r\n");
}

Test(readme_commands, a_command_and_its_answer) {
    char output[PATH_SIZE];
    struct rig *rig = rig_up(NULL);
    set_up_shell(rig);
    int device = rig_tcp(rig);
    device_send(device, report(IDENT, 1));
    rig_expect(rig, "message/gw/devices/" IDENT, NULL);

    char *command = page_block("command");
    run(command, "/dev/null");
    free(command);
    obey(device);
    rig_expect(rig, "log/gw/devices/" IDENT "/commands-queue/custom/processed", "{'executed':true}");

    pid_t requester = start_block(rig, "command-and-answer", output);
    obey(device);
    expect_output(output, "command-output");
    waitpid(requester, NULL, 0);
    rig_finish(rig);
}

// --- without a broker ---

static const char *const offline[] = {"capture", "capture-explain", "capture-hex", "encode", "encode-hex"};
#define OFFLINE (sizeof offline / sizeof offline[0])

Test(readme_commands, without_a_broker) {
    struct rig *rig = rig_new();
    rig->finished = true; // there is no log to show
    set_up_shell(rig);
    for (size_t i = 0; i < OFFLINE; i++) {
        char output[PATH_SIZE], shown[COMMAND_FILE_SIZE];
        char *command = page_block(offline[i]);
        snprintf(output, sizeof output, "%s/output", rig->directory);
        snprintf(shown, sizeof shown, "%s-output", offline[i]);
        run(command, output);
        expect_output(output, shown);
        free(command);
    }
}

Test(readme_commands, example_of_the_configuration_is_valid) {
    char here[COMMAND_FILE_SIZE + 1], command[PATH_SIZE];
    struct rig *rig = rig_new();
    rig->finished = true;
    set_up_shell(rig);
    snprintf(here, sizeof here, "%s/", rig->directory);
    char *example = replaced(page_block("configuration"), "/etc/trackbus/", here);
    example = replaced(example, "/var/lib/trackbus/", here);
    put_file(rig, "trackbus.json", example);
    put_file(rig, "password", "secret\n");
    free(example);
    snprintf(command, sizeof command, "trackbus check -c %s/trackbus.json", rig->directory);
    run(command, "/dev/null");
}

// --- nothing is marked in vain ---

static void expect_tested(const struct page *page, const char *name) {
    static const char *const others[] = {"configuration",         "command",
                                         "command-and-answer",    "command-output",
                                         "first-tracker-gateway", "first-tracker-subscriber",
                                         "first-tracker-report",  "first-tracker-output"};
    bool tested = false;
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        tested = tested || strcmp(name, others[i]) == 0;
    for (size_t i = 0; i < OFFLINE; i++)
        tested = tested || (strncmp(name, offline[i], strlen(offline[i])) == 0 &&
                            (strcmp(name + strlen(offline[i]), "") == 0 ||
                             strcmp(name + strlen(offline[i]), "-output") == 0));
    cr_assert(tested, "%s: nothing runs the block marked test=%s", page->name, name);
}

Test(readme_commands, every_marked_block_is_tested) {
    pages_each_mark(expect_tested);
}
