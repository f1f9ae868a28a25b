// Prints what each byte of a frame stands for: `trackbus decode --explain`.
#pragma once

#include <stdio.h>

#include "codecs/explain.h"
#include "gateway/channels/stream.h"
#include "schema/message.h"

struct explaining;

// Has the stream explain its frames. The stream stays the caller's.
struct explaining *explaining_new(struct stream *stream);
void explaining_free(struct explaining *explaining);

// A message of the frame at hand, as message_write_members() gave it: its values are those of the bytes that
// were explained since the last one.
void explaining_message(struct explaining *explaining, const struct message *message,
                        const struct message_member *members, size_t count);

// The frame is decoded: prints its bytes, line by line.
void explaining_frame(struct explaining *explaining, const struct stream_frame *frame);

// Prints the bytes of a fault to file, and a mark under the one where it is.
void explaining_fault(const struct stream_fault *fault, FILE *file);
