// The terminal on standard output; see terminal.h.
#include "gateway/watch/terminal.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

// The alternate screen, no wrap, no cursor; and back.
#define TAKE      "\033[?1049h\033[?7l\033[?25l\033[2J"
#define GIVE_BACK "\033[0m\033[?25h\033[?7h\033[?1049l"

static bool taken;
static struct termios before; // of standard input, when it has keys

bool terminal_is_there(void) {
    const char *type = getenv("TERM");
    return isatty(STDOUT_FILENO) && type != NULL && *type != '\0' && strcmp(type, "dumb") != 0;
}

bool terminal_has_keys(void) {
    return isatty(STDIN_FILENO);
}

void terminal_take(void) {
    if (terminal_has_keys() && tcgetattr(STDIN_FILENO, &before) == 0) {
        struct termios now = before;
        now.c_lflag &= ~(tcflag_t)(ICANON | ECHO); // keys for signals still work
        tcsetattr(STDIN_FILENO, TCSANOW, &now);
    }
    taken = true;
    terminal_write(TAKE, sizeof TAKE - 1);
}

void terminal_give_back(void) {
    if (!taken)
        return;
    taken = false;
    terminal_write(GIVE_BACK, sizeof GIVE_BACK - 1);
    if (terminal_has_keys())
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &before); // unread keys do not go to the shell
}

void terminal_size(int *rows, int *columns) {
    struct winsize size;
    bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 && size.ws_col > 0;
    *rows = known ? size.ws_row : 24;
    *columns = known ? size.ws_col : 80;
}

bool terminal_write(const char *bytes, size_t length) {
    while (length > 0) {
        ssize_t written = write(STDOUT_FILENO, bytes, length);
        if (written < 0 && errno == EAGAIN) { // another process made it non-blocking
            poll(&(struct pollfd){.fd = STDOUT_FILENO, .events = POLLOUT}, 1, -1);
            continue;
        }
        if (written < 0 && errno != EINTR)
            return false;
        bytes += written > 0 ? written : 0;
        length -= written > 0 ? (size_t)written : 0;
    }
    return true;
}
