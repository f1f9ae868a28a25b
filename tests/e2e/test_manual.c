// The manual pages and the shells' completions that a build makes: they have what the program has.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MADE TEST_BUILD "/docker/"

// What a shell's command prints. Good until the next call.
static const char *said(const char *command) {
    static char text[4096];
    FILE *pipe = popen(command, "r");
    text[fread(text, 1, sizeof text - 1, pipe)] = '\0';
    cr_assert_eq(pclose(pipe), 0, "%s: %s", command, text);
    return text;
}

static void expect_everywhere(const char *word) {
    static const char *const made[] = {"trackbus.1", "trackbus", "_trackbus", "trackbus.fish"};
    for (size_t i = 0; i < sizeof made / sizeof made[0]; i++) {
        char command[256];
        snprintf(command, sizeof command, "sed 's/.-/-/g' '" MADE "%s' | grep -c -w -e '%s' || true", made[i],
                 word);
        cr_assert(atoi(said(command)) > 0, "%s has no %s", made[i], word);
    }
}

Test(manual, page_and_completions_have_every_subcommand) {
    const char *line = said(TRACKBUS_BINARY " help"), *start = "\n  trackbus ";
    char help[4096], name[32];
    size_t count = 0;
    snprintf(help, sizeof help, "%s", line);
    for (line = help; (line = strstr(line, start)) != NULL; count++) {
        line += strlen(start);
        snprintf(name, sizeof name, "%.*s", (int)strspn(line, "abcdefghijklmnopqrstuvwxyz"), line);
        if (strcmp(name, "help") != 0) // the pages are the help
            expect_everywhere(name);
    }
    cr_assert_gt(count, 8);
}

// An option has a line of its own, whatever it takes; and says what its own subcommand does with it.
Test(manual, page_tells_options_apart) {
    cr_assert_str_eq(said("grep -c -F '.B \\-l, \\-\\-listen ADDRESS:PORT' '" MADE "trackbus.1' || true"),
                     "1\n");
    cr_assert_str_eq(said("sed -n '/^.SS check/,/^.SS decode/p' '" MADE
                          "trackbus.1' | grep -o -e '^.SS .*' -e 'store[.]path' || true"),
                     ".SS check\n.SS decode\n");
    cr_assert_str_eq(said("grep -c -e '^.SS help$' -e '^.SS version$' -e '^trackbus version$' '" MADE
                          "trackbus.1' || true"),
                     "3\n");
}

// A line can be broken everywhere but in examples, which stay as they are: groff complains of a word that is longer than a line.
Test(manual, page_has_no_word_that_is_longer_than_a_line) {
    cr_assert_str_eq(said("cd '" MADE
                          "' && sed -e '/^.nf/,/^.fi/d' -e 's/\\\\f[BR]//g' -e 's/\\\\:/ /g' trackbus.1 "
                          "trackbus.json.5 | grep -o -E '[^ ]{20,}' | "
                          "awk 'length > 54; END { if (NR < 20) print NR \" long words\" }'"),
                     "");
}

// Without UTF-8, groff warns of it and leaves it out.
Test(manual, page_has_no_ellipsis) {
    cr_assert_str_eq(said("cd '" MADE "' && grep -h '…' trackbus.1 trackbus.json.5 || true"), "");
}

// In a folder that has files: they are no argument of `store`, and the subcommand `run` is no folder.
Test(manual, a_shell_completes_files_where_they_are_taken) {
    cr_assert_str_eq(said("cd '" MADE
                          "' && bash -c 'source ./trackbus; COMP_WORDS=(trackbus store trackbus.); "
                          "COMP_CWORD=2; _trackbus; echo ${COMPREPLY[@]}'"),
                     "\n");
    cr_assert_str_eq(said("cd '" MADE
                          "' && bash -c 'source ./trackbus; COMP_WORDS=(trackbus decode trackbus.f); "
                          "COMP_CWORD=2; _trackbus; echo ${COMPREPLY[@]}'"),
                     "trackbus.fish\n");
    cr_assert_str_eq(said("grep -c '^complete -F _trackbus trackbus$' '" MADE "trackbus' || true"), "1\n");
    cr_assert_str_eq(said("grep -c 'from store. -f$' '" MADE "trackbus.fish' || true"), "1\n");
}

// The summary is that of `trackbus help`, also where it stands in a line of its own.
Test(manual, a_shell_says_what_a_subcommand_does) {
    cr_assert_str_eq(
        said("grep -c \"'web:serve the page, the API and the metrics'\" '" MADE "_trackbus' || true"), "1\n");
}

Test(manual, a_shell_completes) {
    cr_assert_str_eq(said("bash -c 'source \"" MADE
                          "trackbus\"; COMP_WORDS=(trackbus de); COMP_CWORD=1; _trackbus; "
                          "echo ${COMPREPLY[@]}'"),
                     "decode describe\n");
    cr_assert_str_eq(said("bash -c 'source \"" MADE
                          "trackbus\"; COMP_WORDS=(trackbus encode -p m); COMP_CWORD=3; "
                          "_trackbus; echo ${COMPREPLY[@]}'"),
                     "mictrack magicyo\n");
    cr_assert_str_eq(said("bash -c 'source \"" MADE
                          "trackbus\"; COMP_WORDS=(trackbus check --c); COMP_CWORD=2; "
                          "_trackbus; echo ${COMPREPLY[@]}'"),
                     "--config\n");
}

Test(manual, page_of_the_configuration_has_the_ranges) {
    cr_assert_str_eq(said("grep -A 2 -F 'limits.connections' '" MADE "trackbus.json.5' | sed -n '2,3p'"),
                     "connections in all\n(1 to 1000000; default \\fB15000\\fR)\n");
}

// Of a source without its history it cannot.
Test(manual, version_names_the_commit) {
    const char *version = said(TRACKBUS_BINARY " version");
    const char *commit = strchr(version, '(');
    cr_assert(strncmp(version, "trackbus ", 9) == 0, "%s", version);
    cr_assert(commit != NULL ? strlen(commit) >= 7 : access(TEST_ROOT "/.git", F_OK) != 0, "%s", version);
    cr_assert(commit == NULL || strstr(commit, TRACKBUS_VERSION) == NULL, "%s", version);
}
