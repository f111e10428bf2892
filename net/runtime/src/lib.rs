//! The kernel boundary: glommio executors, the io_uring ring, sockets, timers, mailboxes.
