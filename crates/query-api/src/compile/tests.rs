//! What is compiled, looked at as the JSON it is.
