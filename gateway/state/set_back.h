// A device whose clock was set back: by the rollover of the GPS week (1,024 weeks), a time zone, a battery
// that ran empty. All its reports lie behind the last values that are shown, and would not move them again.
//
// Old reports that a device kept while it had no network lie behind them too, and must not move them. What
// tells the two apart is the pace: the times of live reports go forward as fast as the reports arrive, those
// of kept ones go forward faster.
//
// (The other design was to take a device's last reports by arrival after a while, whatever their times; a
// backlog that takes longer than that to send would then run through the dashboards.)
#pragma once

#include <stdbool.h>
#include <stdint.h>

// What is known of a device's clock. Begins all zero. All times are microseconds since 1970.
struct set_back {
    int64_t newest;         // by which reports are ordered, of the latest one
    int64_t first_received; // of the reports in a row that lie behind it and keep pace; 0: there are none
    int64_t first_reported;
    int64_t last_reported;
    uint32_t count;  // of them
    bool recognised; // the clock is taken as set back
};

// Takes a report's time and the time of its arrival. Returns the time by which it is ordered among the
// device's reports: its own, but that of its arrival when the clock is taken as set back. A report whose time is that of
// its arrival said none. When the gateway's own clock was set back, what is live is ordered behind all before it.
int64_t set_back_order(struct set_back *clock, int64_t reported, int64_t received);
