// The store: what is written is there when the file is opened again, and a file that cannot be used is said
// to be so.
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <fcntl.h>
#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gateway/broker/mqtt_link.h"
#include "gateway/broker/store.h"
#include "gateway/broker/store_wal.h"
#include "tests/temporary.h"

static char directory[TEMPORARY_MAX], path[96];
static uv_loop_t loop, *store_loop = &loop;

static void set_up(void) {
    make_temporary(directory, "store");
    snprintf(path, sizeof path, "%s/store.db", directory);
    uv_loop_init(&loop);
}

static void tear_down(void) {
    char command[96];
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert(uv_loop_close(&loop) == 0);
    umount2(directory, MNT_DETACH); // where a test has mounted a disk of its own
    snprintf(command, sizeof command, "rm -rf %s", directory);
    cr_assert(system(command) == 0);
}

TestSuite(store, .init = set_up, .fini = tear_down, .timeout = 30);

static struct store *open_well(void) {
    char *reason;
    struct store *store = store_open(&loop, path, &reason);
    cr_assert(store != NULL, "%s", reason);
    cr_assert(reason == NULL);
    return store;
}

static void close_well(struct store *store) {
    store_stop(store);
    uv_run(&loop, UV_RUN_DEFAULT);
    store_close(store);
}

// Opening fails with a reason that contains the text.
static void expect_refused(const char *at, const char *text) {
    char *reason;
    struct store *store = store_open(&loop, at, &reason);
    cr_assert(store == NULL, "%s was opened", at);
    cr_assert(strstr(reason, at) != NULL && strstr(reason, text) != NULL, "'%s' does not say '%s'", reason,
              text);
    free(reason);
}

static void add_row(void *context, int64_t id, const char *entry) {
    char *rows = context;
    sprintf(rows + strlen(rows), "%lld=%s;", (long long)id, entry);
}

static void expect_rows(struct store *store, const char *expected) {
    char rows[256] = "";
    store_each_command(store, add_row, rows);
    cr_assert_str_eq(rows, expected, "'%s', expected '%s'", rows, expected);
}

static void count_written(void *context, bool ok) {
    cr_assert(ok);
    ++*(int *)context;
}

Test(store, keeps_what_was_put) {
    struct store *store = open_well();
    int written = 0;
    store_put_command(store, 2, "{\"a\":2}");
    store_put_command(store, 1, "{\"a\":1}");
    store_put_command(store, 3, "{\"a\":3}");
    store_put_command(store, 2, "{\"a\":\"two\"}"); // instead of the first
    store_delete_command(store, 3);
    store_delete_command(store, 4); // was never there
    store_when_written(store, count_written, &written);
    cr_assert(written == 0, "called before it can have been written");
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert(written == 1);
    expect_rows(store, "1={\"a\":1};2={\"a\":\"two\"};");
    close_well(store);
    store = open_well();
    expect_rows(store, "1={\"a\":1};2={\"a\":\"two\"};");
    close_well(store);
}

static void expect_timed(void *context, uint64_t number, const struct mqtt_publish *publish) {
    int *seen = context;
    cr_assert(publish->correlation == NULL && publish->correlation_length == 0);
    cr_assert_eq(publish->measured, number == 1 ? 0 : 1764172800250000);
    ++*seen;
}

static void note_loaded(void *context, bool ok) {
    cr_assert(ok);
}

// And those that were set aside, when they are sent again.
Test(store, keeps_when_a_message_was_measured) {
    int seen = 0;
    struct mqtt_publish publish = {.topic = "t", .payload = "1234", .length = 4};
    struct store *store = open_well();
    store_put_message(store, 1, &publish);
    publish.measured = 1764172800250000;
    store_put_message(store, 2, &publish);
    store_set_aside(store, &publish, "no");
    close_well(store);
    store = open_well();
    cr_assert_eq(store_messages(store).bytes, 2 * (1 + 4), "a time is no text");
    cr_assert_eq(store_resend_aside(store, 0), 1);
    store_load_messages(store, 1, 10, expect_timed, note_loaded, &seen);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_eq(seen, 3);
    close_well(store);
}

// Comes before the C library's, which SQLite would call. Whoever is told that something is written must be able to
// switch the machine off.
static atomic_int syncs;

int fdatasync(int descriptor) {
    syncs++;
    return (int)syscall(SYS_fdatasync, descriptor);
}

Test(store, syncs_what_it_says_is_written) {
    struct store *store = open_well();
    int written = 0;
    for (int i = 1; i <= 3; i++) { // each in a transaction of its own
        syncs = 0;
        store_put_command(store, i, "{}");
        store_when_written(store, count_written, &written);
        uv_run(&loop, UV_RUN_DEFAULT);
        cr_assert(written == i && syncs > 0, "write %d of %d was synced %d times", i, written, syncs);
    }
    close_well(store);
}

Test(store, calls_when_all_before_it_is_written) {
    struct store *store = open_well();
    int written[3] = {0};
    store_when_written(store, count_written, &written[0]); // of nothing
    for (int i = 1; i <= 5000; i++)
        store_put_command(store, i, "{}");
    store_when_written(store, count_written, &written[1]);
    store_when_written(store, count_written, &written[2]);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert(written[0] == 1 && written[1] == 1 && written[2] == 1);
    close_well(store);
}

// Written while it is called back: goes on by itself.
struct chain {
    struct store *store;
    int left;
};

static void put_next(void *context, bool ok) {
    struct chain *chain = context;
    if (chain->left-- == 0)
        return;
    store_put_command(chain->store, chain->left + 1, "{}");
    store_when_written(chain->store, put_next, chain);
}

Test(store, takes_writes_from_callbacks) {
    struct chain chain = {.store = open_well(), .left = 3};
    put_next(&chain, true);
    uv_run(&loop, UV_RUN_DEFAULT);
    expect_rows(chain.store, "1={};2={};3={};");
    close_well(chain.store);
}

Test(store, writes_what_is_left_when_it_is_closed) {
    struct store *store = open_well();
    store_put_command(store, 1, "{}");
    store_put_command(store, 2, "{}");
    store_stop(store);
    store_delete_command(store, 1);
    uv_run(&loop, UV_RUN_DEFAULT);
    store_close(store);
    store = open_well();
    expect_rows(store, "2={};");
    close_well(store);
}

// As after a SIGKILL: what was reported as written is there.
Test(store, outlives_its_process) {
    pid_t pid = fork();
    int status, written = 0;
    if (pid == 0) {
        uv_loop_t own;
        char *reason;
        uv_loop_init(&own);
        struct store *store = store_open(&own, path, &reason);
        store_put_command(store, 7, "{\"kept\":true}");
        store_when_written(store, count_written, &written);
        uv_run(&own, UV_RUN_DEFAULT);
        _exit(written == 1 ? 0 : 1);
    }
    cr_assert(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    struct store *store = open_well();
    expect_rows(store, "7={\"kept\":true};");
    close_well(store);
}

Test(store, has_a_marker_of_its_own) {
    struct store *store = open_well();
    char marker[64], other[96];
    strcpy(marker, store_marker(store));
    cr_assert(strlen(marker) == 32 && strspn(marker, "0123456789abcdef") == 32, "%s", marker);
    close_well(store);
    store = open_well();
    cr_assert_str_eq(store_marker(store), marker);
    close_well(store);
    strcpy(other, path);
    snprintf(path, sizeof path, "%s/other.db", directory);
    store = open_well();
    cr_assert(strcmp(store_marker(store), marker) != 0);
    close_well(store);
}

static int mode_of(const char *file) {
    struct stat status;
    return stat(file, &status) == 0 ? (int)(status.st_mode & 0777) : 0;
}

Test(store, is_for_its_owner_alone) {
    umask(0);
    struct store *store = open_well();
    char wal[128];
    int written = 0;
    store_put_command(store, 1, "{}");
    store_when_written(store, count_written, &written);
    uv_run(&loop, UV_RUN_DEFAULT);
    snprintf(wal, sizeof wal, "%s-wal", path);
    cr_assert(mode_of(path) == 0600, "mode %o", (unsigned)mode_of(path));
    cr_assert(mode_of(wal) == 0600, "mode %o of the -wal file", (unsigned)mode_of(wal));
    close_well(store);
}

Test(store, of_another_gateway_is_refused) {
    int ready[2], end[2], status;
    char byte;
    cr_assert(pipe(ready) == 0 && pipe(end) == 0);
    pid_t pid = fork();
    if (pid == 0) { // a lock does not keep out its own process
        uv_loop_t own;
        char *reason;
        uv_loop_init(&own);
        close(end[1]);
        byte = store_open(&own, path, &reason) != NULL ? 'y' : 'n';
        if (write(ready[1], &byte, 1) == 1)
            (void)!read(end[0], &byte, 1); // until the test closes it
        _exit(0);
    }
    cr_assert(read(ready[0], &byte, 1) == 1 && byte == 'y');
    expect_refused(path,
                   "a running gateway has it open: stop that one first; two gateways need a store.path each");
    close(end[1]);
    waitpid(pid, &status, 0);
    close_well(open_well());
}

static void change(const char *statement) {
    sqlite3 *database;
    cr_assert(sqlite3_open(path, &database) == SQLITE_OK);
    cr_assert(sqlite3_exec(database, statement, NULL, NULL, NULL) == SQLITE_OK);
    sqlite3_close(database);
}

Test(store, of_a_newer_version_is_refused) {
    close_well(open_well());
    change("PRAGMA user_version=2");
    expect_refused(path, "it was written by a newer version");
    change("PRAGMA user_version=1");
    close_well(open_well());
}

Test(store, that_is_a_directory_is_refused) {
    expect_refused(directory, "directory");
}

Test(store, in_a_directory_that_is_not_there_is_refused) {
    snprintf(path, sizeof path, "%s/none/store.db", directory);
    expect_refused(path, "No such file or directory");
}

// A wrong store.path does not cost anybody a file.
Test(store, that_is_another_file_is_set_aside) {
    FILE *file = fopen(path, "w");
    for (int i = 0; i < 100; i++)
        fputs("this is no database, but somebody's letter\n", file);
    fclose(file);
    close_well(open_well());
    char aside[sizeof path + 16];
    struct stat status;
    snprintf(aside, sizeof aside, "%s.damaged", path);
    cr_assert(stat(aside, &status) == 0 && status.st_size == 4300, "the letter is gone");
}

Test(store, that_is_damaged_again_does_not_replace_the_first) {
    char aside[sizeof path + 16];
    struct stat status;
    for (int i = 1; i <= 3; i++) {
        FILE *file = fopen(path, "w");
        for (int byte = 0; byte < 1000 * i; byte++)
            fputc('x', file);
        fclose(file);
        close_well(open_well());
        snprintf(aside, sizeof aside, i == 1 ? "%s.damaged" : "%s.damaged.%d", path, i);
        cr_assert(stat(aside, &status) == 0 && status.st_size == 1000 * i, "%s is not the one", aside);
    }
}

static void note_written(void *context, bool ok) {
    *(int *)context = ok ? 1 : -1;
}

// In a mount namespace of this process: with it the disk goes, however it ends.
static void mount_disk(const char *size) {
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", directory, "tmpfs", 0, size) != 0)
        cr_skip_test("cannot mount a small disk");
}

static uint64_t disk_room(void) {
    struct statvfs status;
    cr_assert(statvfs(directory, &status) == 0);
    return (uint64_t)status.f_bavail * status.f_frsize;
}

// Messages of a kilobyte from number first on, until the disk takes no more. Returns the last it took.
static uint64_t fill_disk(struct store *store, uint64_t first) {
    static const char payload[1000] = "";
    int written = 1;
    for (uint64_t i = first; i < first + 100000; i += 10) {
        for (uint64_t j = i; j < i + 10; j++)
            store_put_message(
                store, j, &(struct mqtt_publish){.topic = "t", .payload = payload, .length = sizeof payload});
        written = 0;
        store_when_written(store, note_written, &written);
        while (written == 0)
            uv_run(&loop, UV_RUN_ONCE);
        if (written < 0)
            return i + 9;
    }
    cr_assert_fail("the disk does not become full");
    return 0;
}

static void delete_all(struct store *store, uint64_t last) {
    int written = -1;
    store_delete_messages(store, 1, last);
    store_tidy(store);
    while (written != 1) {
        if (written == -1) { // also after a failure: it is tried again
            written = 0;
            store_when_written(store, note_written, &written);
        }
        uv_run(&loop, UV_RUN_ONCE);
    }
}

// The disk of its own fills, is emptied and fills again, as much as before.
Test(store, that_filled_its_disk_gives_it_back) {
    mount_disk("size=3m");
    struct store *store = open_well();
    uint64_t last = 0, before = 0;
    for (int round = 0; round < 3; round++) {
        last = fill_disk(store, last + 1);
        cr_assert(last - before > 1000, "only %d messages found room", (int)(last - before));
        before = last;
        delete_all(store, last);
        close_well(store);
        cr_assert(disk_room() > (3 << 20) - (500 << 10), "%d bytes are left", (int)disk_room());
        store = open_well();
    }
    close_well(store);
}

static void put_messages(struct store *store, uint64_t first, uint64_t last) {
    static const char payload[1000] = "";
    int written = 0;
    for (uint64_t i = first; i <= last; i++)
        store_put_message(store, i,
                          &(struct mqtt_publish){.topic = "t", .payload = payload, .length = sizeof payload});
    store_when_written(store, count_written, &written);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert(written == 1);
}

static void count_message(void *context, uint64_t number, const struct mqtt_publish *publish) {
    ++*(size_t *)context;
}

static void expect_ok(void *context, bool ok) {
    cr_assert(ok);
}

static size_t load_messages(struct store *store, uint64_t first) {
    size_t count = 0;
    store_load_messages(store, first, 100000, count_message, expect_ok, &count);
    uv_run(&loop, UV_RUN_DEFAULT);
    return count;
}

static void overwrite(const char *file) {
    struct stat status;
    char junk[4096];
    int descriptor = open(file, O_WRONLY);
    cr_assert(descriptor >= 0 && fstat(descriptor, &status) == 0);
    memset(junk, 0xA5, sizeof junk);
    for (off_t at = sizeof junk; at < status.st_size; at += (off_t)sizeof junk)
        cr_assert(pwrite(descriptor, junk, sizeof junk, at) == sizeof junk);
    close(descriptor);
}

// More than SQLite keeps in memory, so that it has to read what was damaged.
Test(store, that_is_damaged_while_it_is_open_is_set_aside) {
    struct store *store = open_well();
    char aside[sizeof path + 16];
    put_messages(store, 1, 10000);
    cr_assert(load_messages(store, 1) == 10000);
    overwrite(path);
    snprintf(aside, sizeof aside, "%s-wal", path);
    overwrite(aside);
    size_t left = load_messages(store, 1);
    cr_assert(left == 0, "%zu messages", left);
    snprintf(aside, sizeof aside, "%s.damaged", path);
    cr_assert(access(aside, F_OK) == 0 && mode_of(path) == 0600);
    put_messages(store, 10001, 10003);
    cr_assert(load_messages(store, 1) == 3);
    close_well(store);
    store = open_well();
    cr_assert(load_messages(store, 1) == 3);
    close_well(store);
}

// --- sums ---

static off_t size_of_store(void) {
    struct stat status;
    cr_assert(stat(path, &status) == 0);
    return status.st_size;
}

static void expect_sums(struct store *store, size_t count, size_t bytes) {
    struct store_messages found = store_messages(store);
    cr_assert(found.count == count && found.bytes == bytes, "%zu messages of %zu bytes", found.count,
              found.bytes);
}

static void delete_through(struct store *store, uint64_t through) {
    store_delete_messages(store, 1, through);
    uv_run(&loop, UV_RUN_DEFAULT);
}

// Each message has a topic of one byte and a payload of 1,000.
Test(store, knows_what_it_holds_without_reading_it) {
    struct store *store = open_well();
    expect_sums(store, 0, 0);
    put_messages(store, 1, 3000);
    expect_sums(store, 3000, 3000 * 1001);
    put_messages(store, 2990, 3010); // some of them once more
    expect_sums(store, 3010, 3010 * 1001);
    delete_through(store, 2500);
    expect_sums(store, 510, 510 * 1001);
    close_well(store);
    change("PRAGMA foreign_keys=ON; DELETE FROM messages WHERE number > 3005"); // by any other program
    store = open_well();
    expect_sums(store, 505, 505 * 1001);
    cr_assert(store_messages(store).first == 2501 && store_messages(store).last == 3005);
    delete_through(store, 3005);
    expect_sums(store, 0, 0);
    close_well(store);
}

// As a version without sums has left it.
static void forget_sums(void) {
    change("DROP TRIGGER messages_put; DROP TRIGGER messages_gone; DROP TABLE sums");
}

static unsigned long bytes_read(void) {
    unsigned long bytes = 0;
    FILE *file = fopen("/proc/self/io", "r");
    cr_assert(fscanf(file, "rchar: %lu", &bytes) == 1);
    fclose(file);
    return bytes;
}

// So that a start does not take longer the more waits.
static void expect_little_read(void) {
    unsigned long before = bytes_read();
    struct store *store = open_well();
    cr_assert(store_messages(store).count == 10000 && store_set_aside_count(store) == 1);
    cr_assert(bytes_read() - before < 300000, "%lu of %d bytes were read", bytes_read() - before,
              (int)size_of_store());
    close_well(store);
}

Test(store, is_opened_without_reading_it) {
    struct store *store = open_well();
    put_messages(store, 1, 10000);
    store_set_aside(store, &(struct mqtt_publish){.topic = "t", .payload = "1234", .length = 4}, "no");
    close_well(store);
    expect_little_read();
    forget_sums();
    expect_little_read();
}

// In the middle of writing: what is counted is what is there.
Test(store, sums_hold_after_a_kill) {
    int ready[2];
    char byte;
    cr_assert(pipe(ready) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        uv_loop_t own;
        char *reason;
        uv_loop_init(&own);
        struct store *store = store_open(&own, path, &reason);
        for (uint64_t i = 1;; i++) {
            store_put_message(store, i, &(struct mqtt_publish){.topic = "t", .payload = "1234", .length = 4});
            if (i % 7 == 0)
                store_delete_messages(store, 1, i - 5);
            uv_run(&own, UV_RUN_NOWAIT);
            if (i == 500 && write(ready[1], "x", 1) != 1)
                _exit(1);
        }
    }
    cr_assert(read(ready[0], &byte, 1) == 1);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    struct store *store = open_well();
    struct store_messages found = store_messages(store);
    cr_assert(found.count == load_messages(store, 1) && found.bytes == found.count * 5);
    close_well(store);
}

Test(store, of_an_earlier_version_gets_its_sums) {
    struct store *store = open_well();
    put_messages(store, 1, 2000);
    delete_through(store, 1000);
    close_well(store);
    forget_sums();
    store = open_well();
    struct store_messages found = store_messages(store); // by the pages of the file, at least what it holds
    cr_assert(found.count == 1000 && found.first == 1001 && found.last == 2000);
    cr_assert(found.bytes >= 1000 * 1001 && found.bytes < 1000 * 1001 * 2, "%zu bytes", found.bytes);
    put_messages(store, 2001, 2010);
    cr_assert(store_messages(store).count == 1010);
    delete_through(store, 2010);
    store_tidy(store);
    put_messages(store, 2011, 2013);
    expect_sums(store, 3, 3 * 1001); // nothing is left of the estimate
    close_well(store);
}

static void set_report_aside(struct store *store, const char *topic, const char *text) {
    store_set_aside(store, &(struct mqtt_publish){.topic = topic, .payload = text, .length = strlen(text)},
                    "no");
}

// They would push out what stands there.
Test(store, sets_no_report_aside_again_that_a_device_repeats) {
    struct store *store = open_well();
    set_report_aside(store, "t",
                     "{\"ident\":\"1\",\"peer\":\"a:1\",\"server.timestamp\":1.5,\"timestamp\":1}");
    set_report_aside(store, "t",
                     "{\"ident\":\"1\",\"peer\":\"a:2\",\"server.timestamp\":2.5,\"timestamp\":1}");
    close_well(store);
    store = open_well();
    set_report_aside(store, "t", "{\"ident\":\"1\",\"server.timestamp\":3,\"timestamp\":1}");
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_expect_eq(store_set_aside_count(store), 1);
    set_report_aside(store, "u", "{\"ident\":\"1\",\"server.timestamp\":3,\"timestamp\":1}");
    set_report_aside(store, "t", "{\"ident\":\"1\",\"server.timestamp\":3,\"timestamp\":2}");
    set_report_aside(store, "t", "{\"ident\":\"2\",\"server.timestamp\":3,\"timestamp\":1}");
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_expect_eq(store_set_aside_count(store), 4);
    // without a clock, and no reports
    set_report_aside(store, "v", "{\"ident");
    set_report_aside(store, "v", "{\"ident\":\"1\",\"server.timestamp\":3.25,\"timestamp\":3.25}");
    set_report_aside(store, "v", "{\"ident\":\"1\",\"server.timestamp\":4.75,\"timestamp\":4.75}");
    set_report_aside(store, "v", "");
    set_report_aside(store, "v", "");
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_expect_eq(store_set_aside_count(store), 8, "%zu", store_set_aside_count(store));
    close_well(store);
}

Test(store, of_an_earlier_version_counts_what_was_set_aside) {
    struct store *store = open_well();
    store_set_aside(store, &(struct mqtt_publish){.topic = "t", .payload = "1234", .length = 4}, "no");
    store_set_aside(store, &(struct mqtt_publish){.topic = "t", .payload = "1234", .length = 4}, "no");
    close_well(store);
    change("DROP TRIGGER set_aside_put; DROP TRIGGER set_aside_gone");
    forget_sums();
    store = open_well();
    cr_assert(store_set_aside_count(store) == 2);
    store_set_aside(store, &(struct mqtt_publish){.topic = "t", .payload = "1234", .length = 4}, "no");
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert(store_set_aside_count(store) == 3);
    close_well(store);
    change("DELETE FROM set_aside WHERE number = 1");
    store = open_well();
    cr_assert(store_set_aside_count(store) == 2);
    close_well(store);
}

// --- damage that shows later ---

static void write_at(off_t at, size_t length) {
    static const char junk[4096] = {[0 ... 4095] = (char)0xA5};
    int file = open(path, O_WRONLY);
    cr_assert(file >= 0 && pwrite(file, junk, length, at) == (ssize_t)length);
    close(file);
}

static bool is_set_aside(void) {
    char aside[sizeof path + 16];
    snprintf(aside, sizeof aside, "%s.damaged", path);
    return access(aside, F_OK) == 0;
}

static void store_of(uint64_t count) {
    struct store *store = open_well();
    put_messages(store, 1, count);
    close_well(store);
}

// Nothing asks for these rows, and nothing is put that would.
Test(store, that_is_damaged_where_nobody_reads_is_found) {
    store_of(3000);
    for (off_t at = size_of_store() / 2 / 4096 * 4096, end = at + 20 * 4096; at < end; at += 4096)
        write_at(at, 4096);
    struct store *store = open_well();
    cr_assert(!is_set_aside() && store_messages(store).count == 3000, "all was read when it was opened");
    store_begin_check(store);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert(is_set_aside(), "the damage was not found");
    put_messages(store, 3001, 3003); // and what comes is kept
    expect_sums(store, 3, 3 * 1001);
    close_well(store);
}

Test(store, that_is_well_is_not_set_aside_by_the_check) {
    store_of(3000);
    struct store *store = open_well();
    store_begin_check(store);
    for (uint64_t i = 1; i <= 20; i++) { // while it is written to
        put_messages(store, 3000 + i, 3000 + i);
        delete_through(store, i * 100);
    }
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert(!is_set_aside() && load_messages(store, 1) == 1020);
    close_well(store);
}

Test(store, that_is_large_and_was_cut_off_is_set_aside_at_once) {
    store_of(3000);
    cr_assert(truncate(path, size_of_store() / 2 / 4096 * 4096) == 0);
    struct store *store = open_well();
    cr_assert(is_set_aside() && store_messages(store).count == 0);
    close_well(store);
}

// The copies do not fill the disk in the long run, and the first is never the one that goes.
Test(store, copies_of_damaged_ones_are_bounded) {
    char command[200];
    for (int i = 1; i <= 12; i++) {
        snprintf(command, sizeof command, "yes damage | head -c %d > %s", 1000 * i, path);
        cr_assert(system(command) == 0);
        close_well(open_well());
    }
    snprintf(command, sizeof command, "test $(ls %s | grep -c damaged) = 9", directory);
    cr_assert(system(command) == 0);
    strcat(path, ".damaged");
    cr_assert(size_of_store() == 1000);
    strcat(path, ".9");
    cr_assert(size_of_store() == 12000);
}

// --- a file that goes while it is open ---

static void put_some(struct store *store, uint64_t first, uint64_t last) {
    int written = 0;
    for (uint64_t i = first; i <= last; i++)
        store_put_message(store, i, &(struct mqtt_publish){.topic = "t", .payload = "1234", .length = 4});
    store_when_written(store, count_written, &written);
    while (written == 0)
        uv_run(store_loop, UV_RUN_ONCE);
}

static void fail_process(uv_timer_t *timer) {
    _exit(1);
}

// In a process of its own, which ends as if killed: puts 1 to 20, has something happen to the files, and puts 21 to
// last, or waits until the file is back when there are no more.
static void put_and_die(void (*happens)(void), uint64_t last) {
    pid_t pid = fork();
    int status;
    if (pid == 0) {
        uv_loop_t own;
        char *reason;
        uv_loop_init(&own);
        store_loop = &own;
        struct store *store = store_open(&own, path, &reason);
        put_some(store, 1, 20);
        happens();
        if (last > 20)
            put_some(store, 21, last);
        uv_timer_t end;
        uv_timer_init(&own, &end);
        uv_timer_start(&end, fail_process, 10000, 0);
        while (access(path, F_OK) != 0)
            uv_run(&own, UV_RUN_ONCE);
        _exit(0);
    }
    cr_assert(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static char *wal_path(void) {
    static char wal[sizeof path + 8];
    snprintf(wal, sizeof wal, "%s-wal", path);
    return wal;
}

static void delete_wal(void) {
    unlink(wal_path());
}

static void delete_file(void) {
    unlink(path);
}

static void delete_both(void) {
    unlink(path);
    unlink(wal_path());
}

static void replace_by_a_letter(void) {
    char letter[sizeof path + 8];
    snprintf(letter, sizeof letter, "%s.letter", path);
    FILE *file = fopen(letter, "w");
    fputs("somebody has put a letter here\n", file);
    fclose(file);
    rename(letter, path);
}

static void expect_all_there(void (*happens)(void), uint64_t last) {
    put_and_die(happens, last);
    struct store *store = open_well();
    cr_expect_eq(load_messages(store, 1), last, "%zu of %d messages", load_messages(store, 1), (int)last);
    cr_expect(mode_of(path) == 0600);
    close_well(store);
}

static void (*const deletions[])(void) = {delete_file, delete_wal, delete_both};

// Each in a process of its own: once the store was used, there is a thread, and an emulator does not survive a fork then.
ParameterizedTestParameters(store, that_is_deleted_while_it_is_open_loses_nothing) {
    static size_t rows[] = {0, 1, 2};
    return cr_make_param_array(size_t, rows, sizeof rows / sizeof rows[0]);
}

ParameterizedTest(size_t *row, store, that_is_deleted_while_it_is_open_loses_nothing) {
    expect_all_there(deletions[*row], 40);
}

// Nothing is put, and nothing asked for.
Test(store, that_is_deleted_while_nothing_happens_loses_nothing) {
    expect_all_there(delete_both, 20);
}

Test(store, that_is_replaced_while_it_is_open_loses_nothing) {
    char aside[sizeof path + 16];
    struct stat status;
    expect_all_there(replace_by_a_letter, 40);
    snprintf(aside, sizeof aside, "%s.damaged", path);
    cr_expect(stat(aside, &status) == 0 && status.st_size == 31, "the letter is gone");
}

static void cut_file(void) {
    cr_assert(truncate(path, 0) == 0);
}

static void cut_wal(void) {
    cr_assert(truncate(wal_path(), 4096) == 0);
}

static void (*const cuts[])(void) = {cut_file, cut_wal};

ParameterizedTestParameters(store, that_is_cut_short_while_it_is_open_keeps_what_comes_after) {
    static size_t rows[] = {0, 1};
    return cr_make_param_array(size_t, rows, sizeof rows / sizeof rows[0]);
}

ParameterizedTest(size_t *row, store, that_is_cut_short_while_it_is_open_keeps_what_comes_after) {
    char aside[sizeof path + 16];
    put_and_die(cuts[*row], 40);
    snprintf(aside, sizeof aside, "%s.damaged", path);
    cr_expect(access(aside, F_OK) == 0, "the damaged one is gone");
    struct store *store = open_well();
    cr_expect_eq(load_messages(store, 21), 20, "%zu of 20 messages", load_messages(store, 21));
    close_well(store);
}

// As a gateway of an earlier version leaves them that is killed when so much was written ahead: more than SQLite keeps of it.
static void leave_much_written_ahead(void) {
    static const char much[] =
        "PRAGMA locking_mode=EXCLUSIVE; PRAGMA wal_autocheckpoint=0; DELETE FROM meta WHERE name='secret';"
        "INSERT INTO messages VALUES(1, 't', zeroblob(6000000), 1, 0, NULL)";
    struct store *store = open_well();
    store_set_aside(store, &(struct mqtt_publish){.topic = "t"}, "no");
    close_well(store);
    pid_t pid = fork();
    if (pid == 0) {
        sqlite3 *database;
        int result = sqlite3_open(path, &database);
        _exit(result == SQLITE_OK && sqlite3_exec(database, much, NULL, NULL, NULL) == SQLITE_OK ? 0 : 1);
    }
    int status;
    cr_assert(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

// Room that SQLite gives back is no cut, also where the command line writes.
Test(store, that_gets_smaller_by_itself_is_not_cut_short) {
    char aside[sizeof path + 16];
    leave_much_written_ahead();
    struct store *store = open_well();
    cr_assert_eq(store_resend_aside(store, 0), 1);
    close_well(store);
    snprintf(aside, sizeof aside, "%s.damaged", path);
    cr_expect(access(aside, F_OK) != 0, "it was set aside");
    store = open_well();
    cr_expect_eq(store_messages(store).count, 2);
    close_well(store);
}

// There is no place for it: it says so at the end.
Test(store, that_cannot_be_brought_back_is_lost) {
    char moved[sizeof directory + 8];
    struct store *store = open_well();
    put_some(store, 1, 20);
    snprintf(moved, sizeof moved, "%s.moved", directory);
    delete_file();
    cr_assert(rename(directory, moved) == 0);
    store_put_message(store, 21, &(struct mqtt_publish){.topic = "t"});
    store_stop(store);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_expect_eq(store_close(store), 21);
    cr_assert(rename(moved, directory) == 0);
}

// --- what is written ahead of the file, damaged before it is opened ---

static void put_thirty_times(void) {
    pid_t pid = fork();
    if (pid == 0) {
        uv_loop_t own;
        char *reason;
        uv_loop_init(&own);
        store_loop = &own;
        struct store *store = store_open(&own, path, &reason);
        for (uint64_t i = 1; i <= 30; i++)
            put_some(store, i, i);
        _exit(0);
    }
    waitpid(pid, NULL, 0);
}

static void damage_wal(off_t at) {
    static const char junk[500] = {[0 ... 499] = (char)0xA5};
    int file = open(wal_path(), O_WRONLY);
    cr_assert(file >= 0 && pwrite(file, junk, sizeof junk, at) == sizeof junk);
    close(file);
}

static off_t size_of_wal(void) {
    struct stat status;
    cr_assert(stat(wal_path(), &status) == 0);
    return status.st_size;
}

Test(store, wal_that_is_damaged_is_found) {
    put_thirty_times();
    struct store_wal wal = store_wal_look(path);
    cr_expect(wal.writes >= 30 && wal.lost == 0, "%u of %u", wal.lost, wal.writes);
    damage_wal(size_of_wal() / 2);
    wal = store_wal_look(path);
    struct store *store = open_well();
    size_t left = load_messages(store, 1);
    cr_expect(wal.lost > 5 && left == 30 - wal.lost && !wal.last_only, "%u writes, %zu messages left",
              wal.lost, left);
    close_well(store);
    wal = store_wal_look(path); // there is none any more
    cr_expect(wal.writes == 0 && wal.lost == 0 && !wal.unreadable);
}

// So is the end of one that was written while the power failed.
Test(store, wal_with_a_damaged_last_write_is_told_apart) {
    put_thirty_times();
    damage_wal(size_of_wal() - 1000);
    struct store_wal wal = store_wal_look(path);
    cr_expect(wal.lost == 1 && wal.last_only);
    damage_wal(0); // the header: all of it is left out
    wal = store_wal_look(path);
    cr_expect(wal.unreadable);
}

// --- a disk that takes nothing ---

static char filler[96];

// Fills the disk with a file of somebody else's.
static void fill_with_a_file(void) {
    static const char zeros[4096];
    snprintf(filler, sizeof filler, "%s/filler", directory);
    int file = open(filler, O_WRONLY | O_CREAT, 0600);
    while (write(file, zeros, sizeof zeros) > 0)
        ;
    close(file);
}

// All of the disk is gone: what waits can be read and deleted all the same, in a new run too.
Test(store, is_emptied_on_a_disk_that_others_have_filled) {
    mount_disk("size=3m");
    struct store *store = open_well();
    put_messages(store, 1, 1000);
    fill_with_a_file();
    cr_assert(disk_room() == 0);
    cr_assert(load_messages(store, 1) == 1000);
    delete_all(store, 500);
    close_well(store);
    fill_with_a_file();
    store = open_well();
    cr_assert(load_messages(store, 1) == 500);
    unlink(filler);
    delete_all(store, 1000);
    close_well(store);
    cr_assert(disk_room() > (3 << 20) - (500 << 10), "%d bytes are left", (int)disk_room());
}

size_t __sanitizer_get_current_allocated_bytes(void) __attribute__((weak));

static size_t allocated(void) {
    return __sanitizer_get_current_allocated_bytes != NULL ? __sanitizer_get_current_allocated_bytes()
                                                           : mallinfo2().uordblks;
}

// What changes again and again waits once.
Test(store, holds_one_of_many_changes_while_the_disk_is_full) {
    static char entry[4000];
    mount_disk("size=1m");
    struct store *store = open_well();
    uint64_t last = fill_disk(store, 1);
    memset(entry, 'x', sizeof entry - 1);
    size_t before = allocated();
    for (int i = 0; i < 5000; i++) {
        store_put_command(store, 1 + i % 3, entry);
        if (i % 1000 == 999) {
            int written = 0;
            store_when_written(store, note_written, &written);
            while (written == 0)
                uv_run(&loop, UV_RUN_ONCE);
            cr_assert(written < 0, "a full disk has taken it");
        }
    }
    cr_assert(allocated() < before + (1 << 20), "%zu bytes more", allocated() - before);
    store_put_command(store, 1, "{\"last\":true}");
    store_delete_command(store, 2);
    delete_all(store, last);
    close_well(store);
    store = open_well();
    char rows[5000] = "";
    store_each_command(store, add_row, rows);
    cr_assert(strncmp(rows, "1={\"last\":true};3=xxx", 21) == 0);
    close_well(store);
}

Test(store, in_a_directory_for_reading_is_refused) {
    if (geteuid() == 0)
        cr_skip_test("root may write everywhere");
    chmod(directory, 0500);
    expect_refused(path, "Permission denied");
    chmod(directory, 0700);
}

// --- what was set aside, and results ---

static void put_aside(struct store *store, const char *topic) {
    int written = 0;
    store_set_aside(store, &(struct mqtt_publish){.topic = topic, .payload = "x", .length = 1}, "a reason");
    store_when_written(store, count_written, &written);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert(written == 1);
}

static void count_aside(void *context, const struct store_aside *aside) {
    ++*(int *)context;
}

static void expect_aside(struct store *store, int expected) {
    int count = 0;
    cr_assert(store_each_aside(store, count_aside, &count));
    cr_assert_eq(count, expected, "%d are set aside, expected %d", count, expected);
}

Test(store, resends_all_or_nothing) {
    struct store *store = open_well();
    put_aside(store, "a");
    put_aside(store, "b");
    close_well(store);
    change("CREATE TRIGGER no BEFORE DELETE ON set_aside BEGIN SELECT raise(ABORT, 'no'); END");
    store = open_well();
    cr_expect_eq(store_resend_aside(store, 0), -1);
    cr_expect_eq(store_messages(store).count, 0);
    expect_aside(store, 2);
    close_well(store);
    change("DROP TRIGGER no");
    store = open_well();
    cr_expect_eq(store_resend_aside(store, 2), 1);
    cr_expect_eq(store_resend_aside(store, 2), 0);
    cr_expect_eq(store_messages(store).count, 1);
    expect_aside(store, 1);
    close_well(store);
}

Test(store, with_a_table_of_another_version_is_refused) {
    close_well(open_well());
    change("CREATE TABLE set_aside(number INTEGER PRIMARY KEY, text TEXT)");
    expect_refused(path, "its table set_aside has other columns: it was written by another version");
    change("DROP TABLE set_aside");
    close_well(open_well());
}

Test(store, keeps_results_apart_from_messages) {
    struct store *store = open_well();
    store_put_result(store, 1, &(struct mqtt_publish){.topic = "a", .payload = "x", .length = 1});
    store_put_result(store, 2, &(struct mqtt_publish){.topic = "b", .correlation = "c"});
    store_delete_result(store, 1);
    close_well(store);
    store = open_well();
    size_t results = 0;
    cr_expect(store_each_result(store, count_message, &results) && results == 1);
    cr_expect_eq(store_messages(store).count, 0);
    close_well(store);
}

// A file that may not grow is as good as a full disk.
Test(store, says_how_many_are_lost_when_it_cannot_be_written) {
    struct rlimit limit = {.rlim_cur = 0, .rlim_max = RLIM_INFINITY};
    struct store *store = open_well();
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
    store_put_command(store, 1, "{}");
    store_put_message(store, 1, &(struct mqtt_publish){.topic = "a"});
    store_put_result(store, 1, &(struct mqtt_publish){.topic = "a"});
    store_stop(store);
    store_delete_command(store, 7); // costs nothing
    store_put_command(store, 8, "{}");
    store_put_note(store, 8, "{}"); // it has ended
    store_put_note(store, 9, "{}");
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_expect_eq(store_close(store), 3);
    limit.rlim_cur = RLIM_INFINITY;
    setrlimit(RLIMIT_FSIZE, &limit);
    close_well(open_well());
}
