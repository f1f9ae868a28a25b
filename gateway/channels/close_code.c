// Why a connection was closed; see close_code.h.
#include "gateway/channels/close_code.h"

const char *close_code_text(enum close_code code) {
    switch (code) {
    case CLOSE_NONE:
        return "open";
    case CLOSE_BY_DEVICE:
        return "closed by the device";
    case CLOSE_VIOLATION:
        return "protocol violated";
    case CLOSE_PARSE_ERROR:
        return "parse error";
    case CLOSE_RESTART:
        return "gateway stopped";
    case CLOSE_SAME_IDENT:
        return "the same device connected again";
    case CLOSE_REJECTED:
        return "device not allowed";
    case CLOSE_INACTIVE:
        return "silent for too long";
    case CLOSE_NOT_THIS_PROTOCOL:
        return "not this protocol";
    case CLOSE_LIMIT:
        return "limit reached";
    }
    return "?";
}
