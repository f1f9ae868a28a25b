// Asks the page's server; see http_client.h.
#include "tests/e2e/http_client.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/e2e/rig.h"

#define ANSWER_MAX 65536

int http_page_port(struct rig *rig) {
    char line[512];
    int port = 0;
    rig_expect_log(rig, "the page is on ");
    FILE *log = fopen(rig->log_path, "re");
    while (port == 0 && fgets(line, sizeof line, log) != NULL) {
        const char *found = strstr(line, "the page is on ");
        if (found != NULL)
            sscanf(strrchr(found, ':'), ":%d", &port);
    }
    fclose(log);
    return port;
}

int http_connect(int port) {
    const struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const struct timeval patience = {.tv_sec = RIG_DEADLINE / 1000};
    int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    cr_assert_eq(connect(descriptor, (const struct sockaddr *)&address, sizeof address), 0);
    return descriptor;
}

// What comes until the server closes, or until the text has come, which may be NULL.
static const char *read_up_to(int descriptor, const char *text) {
    static char answer[ANSWER_MAX];
    size_t length = 0;
    ssize_t count;
    answer[0] = '\0';
    while (length < sizeof answer - 1 && (text == NULL || strstr(answer, text) == NULL) &&
           (count = read(descriptor, answer + length, sizeof answer - 1 - length)) > 0) {
        length += (size_t)count;
        answer[length] = '\0';
    }
    return answer;
}

const char *http_ask(int port, const char *line, const char *headers, const char *body) {
    char request[4096];
    int descriptor = http_connect(port);
    int size =
        snprintf(request, sizeof request,
                 "%s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: %zu\r\n%s\r\n%s",
                 line, strlen(body), headers, body);
    cr_assert_eq(write(descriptor, request, (size_t)size), size);
    const char *answer = read_up_to(descriptor, NULL);
    close(descriptor);
    return answer;
}

static int status_of(const char *answer) {
    int status = 0;
    sscanf(answer, "HTTP/1.1 %d", &status);
    return status;
}

void http_expect(int port, const char *line, const char *headers, const char *body, int status,
                 const char *text) {
    const char *answer = http_ask(port, line, headers, body);
    cr_assert(status_of(answer) == status && strstr(answer, text) != NULL,
              "%s: expected %d with %s, got:\n%s", line, status, text, answer);
}

struct wanted {
    int port;
    const char *line, *headers, *text;
};

static bool has_text(void *context) {
    const struct wanted *wanted = context;
    return strstr(http_ask(wanted->port, wanted->line, wanted->headers, ""), wanted->text) != NULL;
}

void http_expect_soon(int port, const char *line, const char *headers, const char *text) {
    struct wanted wanted = {port, line, headers, text};
    cr_assert(rig_wait(has_text, &wanted, RIG_DEADLINE), "%s: never says %s:\n%s", line, text,
              http_ask(port, line, headers, ""));
}

void http_expect_raw(int port, const char *bytes, size_t length, int status) {
    int descriptor = http_connect(port);
    cr_assert_eq(send(descriptor, bytes, length, MSG_NOSIGNAL), (ssize_t)length);
    shutdown(descriptor, SHUT_WR);
    int got = status_of(read_up_to(descriptor, "\r\n"));
    close(descriptor);
    cr_assert(got == status || (status < 10 && got / 100 == status), "%.80s: expected %d, got %d", bytes,
              status, got);
}

void http_read_until(int descriptor, const char *text) {
    static char came[ANSWER_MAX];
    size_t length = 0;
    came[0] = '\0';
    while (strstr(came, text) == NULL) {
        length = length < ANSWER_MAX / 2 ? length : 0;
        ssize_t count = read(descriptor, came + length, sizeof came - 1 - length);
        cr_assert_gt(count, 0, "'%s' did not come, but: %s", text, came);
        length += (size_t)count;
        came[length] = '\0';
    }
}
