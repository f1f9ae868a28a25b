// A peer: the other end of a conversation, be it a TCP connection or an address over UDP.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "gateway/base/address.h"
#include "gateway/channels/close_code.h"
#include "gateway/channels/parts.h"
#include "gateway/channels/stream.h"

#define PEER_REPLIES_MAX     1000   // of a peer that wait, beyond which one without a message is left out
#define PEER_REPLIES_ALL_MAX 100000 // and of all peers

struct hold;
struct peer;
struct pending_reply;
struct place;
struct session;
struct tap_held;

struct peer_transport {
    bool is_udp;
    bool (*is_behind)(const struct peer *peer); // something it has said is not taken yet; NULL: never
    void (*send)(struct peer *peer, const uint8_t *bytes, size_t length);
    // Ends the conversation; the peer is freed some time after the call.
    void (*close)(struct peer *peer, enum close_code code);
    // No report of the peer is held any more. NULL: it does not matter.
    void (*all_out)(struct peer *peer);
};

struct peer {
    struct channel_parts *parts;
    const struct config_channel *channel;
    const struct peer_transport *transport;
    char address[ADDRESS_TEXT_MAX]; // "ip:port"
    unsigned char ip[16];           // the same without the port, as in address_key
    struct stream stream;
    struct place *places;        // of the devices that have said who they are here
    size_t place_count;          // of them
    struct session *session;     // of the one that speaks, or NULL; then also the next two
    const char *ident;           // NULL or the session's
    const struct device *device; // the same
    uint8_t *beginning;          // what it said before it said who it is, or NULL
    size_t beginning_length;     // of that
    size_t guessed_length;       // of that, when it was last looked at for another protocol
    bool foreign;                // it looked like another protocol
    char *turned_away;           // the ident that is not allowed here and spoke last, or NULL
    enum close_code refusal;     // why that is; the code to close it with when nobody else has spoken
    bool may_wait;               // what it says can stay unread for a while
    bool ended;                  // its device sends no more
    bool told;                   // that it began, so that its end is told too
    uint64_t captured;           // captures of the devices that have said who they are here, a bit for each
    uint64_t captured_at;        // captures_asked() when that was found out; 0: it must be found out
    struct tap_held *held;       // what it said and heard, for a capture that may want it; or NULL
    uint64_t serial;             // no other peer has it
    enum close_code close_code;  // set while bytes are taken: close when that is done
    const char *loss;            // what the system said when the connection was lost, a constant; or NULL
    uint64_t opened;             // by uv_now(), milliseconds
    uint64_t last_heard;         // the same
    uint64_t received, sent;     // bytes
    uint64_t messages;           // taken from it
    uint64_t first_number;       // in the outbox: of the messages since the last reply; 0: none
    uint64_t last_number;        // of the last message
    uint64_t said_at;            // in the stream: the frame of that one
    bool background;             // a message of it was, in the outbox
    bool refused;       // the broker did not take a message: what it says again is not to be acknowledged
    struct hold *holds; // of reports that are held, the oldest first
    struct hold *hold;  // the one of the reports since the last reply, or NULL
    uint64_t last_hold; // the last one's number; 0: there was none
    struct pending_reply *replies;      // that wait until messages are safe
    size_t reply_count;                 // of these
    size_t unsettled;                   // of those: the last ones, which do not wait yet
    struct pending_reply *latest_reply; // of these, the one put out last; NULL: it was left out
    uint64_t datagrams;                 // over UDP, taken from it
};

// Messages of the peer were put into the outbox: from the first to the last number. background: as in struct mqtt_publish.
void peer_note_put(struct peer *peer, uint64_t first, uint64_t last, bool background);

// A report of the peer is held: it goes into the outbox later. Returns what to tell then, by peer_hold_out(). Replies to
// it, and to what is repeated of it, wait until it is safe.
struct hold *peer_hold(struct peer *peer);
// It has gone into the outbox now, as these messages. The peer may be gone by then.
void peer_hold_out(struct hold *hold, uint64_t first, uint64_t last, bool background);

// Sends bytes once the messages since the last reply are safe; over UDP all messages of the datagram. Nothing
// goes out before peer_settle_replies(). A reply without a message of its own is left out when too many wait: the
// device says it again.
void peer_send_when_safe(struct peer *peer, const uint8_t *bytes, size_t length);

// Sends these bytes instead of the last ones of peer_send_when_safe() when the broker refuses one of those
// messages for good. Without them nothing is sent then, and the peer is marked as refused.
void peer_send_when_refused(struct peer *peer, const uint8_t *bytes, size_t length);

// Sends bytes at once; over UDP in one datagram with the other replies to the one at hand.
void peer_send_now(struct peer *peer, const uint8_t *bytes, size_t length);

// Lets the replies wait: the bytes at hand, so many, have all been taken. Whoever forges his address over UDP must not
// make us send more than he does: to one datagram goes one, with as many replies as are not longer than it.
void peer_settle_replies(struct peer *peer, size_t taken);

// Drops the replies that are not settled: the datagram at hand is not to be acknowledged.
void peer_drop_unsettled(struct peer *peer);

// Drops all replies that wait.
void peer_drop_replies(struct peer *peer);

// Logs a line about the peer, "channel NAME, IP:PORT, device IDENT: …".
__attribute__((format(printf, 2, 3))) void peer_log(const struct peer *peer, const char *format, ...);

// Whether something of one kind (a constant) may be reported about the peer: each address has a limit per
// second, and the rest is counted. If so, *suppressed is how many were left out before.
bool peer_may_tell(const struct peer *peer, const char *kind, unsigned *suppressed);

// The same for a device: of its arrivals, from whatever address.
bool peer_may_tell_of(const struct peer *peer, const char *kind, const char *ident);

// Warns of a fault of the peer in the same way, if it may be reported. Returns false when it was only
// counted; otherwise *suppressed (or NULL) is how many were before.
__attribute__((format(printf, 4, 5))) bool peer_warn(const struct peer *peer, const char *kind,
                                                     unsigned *suppressed, const char *format, ...);

// The ident of the device, or "-".
const char *peer_ident(const struct peer *peer);
