// The bytes between libmosquitto and the broker.
//
// libmosquitto acknowledges a publish to the broker itself, with a plain write, before it says that the publish came. So
// it writes to one end of a pair of sockets, and the wire moves the bytes from the other end to the broker, opaque
// (they may be TLS), and those of the broker back. The wire can hold what libmosquitto writes: a process that is killed
// takes the acknowledgement with it, and the broker delivers the publish again. (QoS 2 would not help: between PUBREC
// and PUBREL the library has the publish in memory alone, and its PUBCOMP goes before the callback too.)
//
// It also makes one write of all that is published in one turn of the loop.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

struct wire;

// handle is libmosquitto's connected socket, which it goes on to use: from now on it is an end of the pair. NULL, and
// errno, when there are no descriptors left; then nothing has changed.
struct wire *wire_new(uv_loop_t *loop, int handle);

// Closes the connection to the broker and the handles on the loop. What may leave and the network takes at once still
// goes. The memory goes when the loop has closed them. NULL allowed.
void wire_close(struct wire *wire);

// From now on nothing leaves that libmosquitto writes, nor what it has written in this turn of the loop, until
// wire_release() was called once for this call and for each one before it.
void wire_hold(struct wire *wire);
void wire_release(struct wire *wire);

// Moves what libmosquitto has written; to be called at the end of each turn of the loop. Returns whether there was
// anything.
bool wire_turn(struct wire *wire);

// After libmosquitto has written its last: blocks until the broker has read it and has closed the connection, or until so
// many milliseconds have passed. A socket that is closed with something unread in it is reset, and a broker that sees
// that before it has read the goodbye publishes the Last Will. False when something is held, which does not leave.
bool wire_finish(struct wire *wire, unsigned milliseconds);
