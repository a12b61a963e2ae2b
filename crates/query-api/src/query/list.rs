//! The bracketed lists of filters: `(a,"b,c",d)`.

/// Cuts a text at the commas that are outside quotes and brackets.
///
/// # Errors
/// When a quote or bracket has no end.
pub(crate) fn cut(text: &str) -> Result<Vec<&str>, &'static str> {
    let mut parts = Vec::new();
    let (mut depth, mut start, mut is_quoted, mut is_escaped) = (0usize, 0, false, false);
    for (at, c) in text.char_indices() {
        if is_escaped {
            is_escaped = false;
            continue;
        }
        match c {
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            _ if is_quoted => {}
            '(' => depth += 1,
            ')' => depth = depth.checked_sub(1).ok_or("a ) has no (")?,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if is_quoted {
        return Err("a \" has no end");
    }
    if depth > 0 {
        return Err("a ( has no end");
    }
    parts.push(&text[start..]);
    Ok(parts)
}

/// Takes a value out of its quotes, if it is in any.
///
/// # Errors
/// When something stands behind the closing quote.
pub(crate) fn unquote(text: &str) -> Result<String, &'static str> {
    let Some(inner) = text.strip_prefix('"') else {
        return Ok(text.to_owned());
    };
    let mut value = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    loop {
        match characters.next() {
            Some('\\') => value.extend(characters.next()),
            Some('"') => break,
            Some(c) => value.push(c),
            None => return Err("a \" has no end"),
        }
    }
    match characters.next() {
        None => Ok(value),
        Some(_) => Err("something stands behind a closing \""),
    }
}

/// What is between the brackets around a whole text.
pub(crate) fn bracketed(text: &str) -> Option<&str> {
    text.strip_prefix('(')?.strip_suffix(')')
}
