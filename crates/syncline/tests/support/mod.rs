//! What the tests of the whole program share: the program as a process, documents that are easy to
//! get wrong, and a complete comparison that owes nothing to the program's own.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod corpus;
pub(crate) mod equal;
pub(crate) mod lost_end;
pub(crate) mod pipeline;
pub(crate) mod program;
