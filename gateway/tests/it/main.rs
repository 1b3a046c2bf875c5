//! The gateway's tests against real files, processes and servers.

mod spool;
