//! Compares a source with a target completely, in bounded memory.
