//! Texts of app_voicemail's mails as templates of Twinbox.

use std::fmt;

/// A text that has no counterpart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextProblem {
    /// Variables or functions without a counterpart, as written.
    Unknown(Vec<String>),
    /// A `${` that does not end.
    Open,
    /// Characters that begin an expression of a template.
    Braces,
}

impl fmt::Display for TextProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(words) => write!(f, "there is no counterpart of {}", words.join(", ")),
            Self::Open => f.write_str("a ${ has no }"),
            Self::Braces => f.write_str("it has {{, {% or {#, which begin expressions of a template"),
        }
    }
}

/// The file of a template for a text option of `voicemail.conf`; `None` for a text that no mail of Twinbox has.
pub fn file(option: &str) -> Option<&'static str> {
    match option {
        "emailsubject" => Some("mail.subject"),
        "emailbody" => Some("mail.txt"),
        "pagerbody" => Some("pager.txt"),
        _ => None,
    }
}

/// Converts a text: each variable becomes an expression of a template.
pub fn template(text: &str) -> Result<String, TextProblem> {
    let (mut result, mut unknown) = (String::new(), Vec::new());
    let mut rest = text;
    while let Some(at) = rest.find("${").into_iter().chain(rest.find("$[")).min() {
        let (before, expression) = rest.split_at(at);
        literal(before, &mut result)?;
        let (whole, after) = expression.split_at(end_of(expression).ok_or(TextProblem::Open)?);
        match expression_of(whole) {
            Some(expression) => result.push_str(expression),
            None => unknown.push(whole.to_owned()),
        }
        rest = after;
    }
    literal(rest, &mut result)?;
    if unknown.is_empty() { Ok(result) } else { Err(TextProblem::Unknown(unknown)) }
}

fn literal(text: &str, result: &mut String) -> Result<(), TextProblem> {
    // A brace at the end would begin an expression together with the braces of a variable.
    if ["{{", "{%", "{#"].iter().any(|begin| text.contains(begin)) || text.ends_with('{') {
        return Err(TextProblem::Braces);
    }
    result.push_str(text);
    Ok(())
}

/// Length of the expression at the start, with the brackets in it.
fn end_of(expression: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, c) in expression.char_indices() {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

fn expression_of(variable: &str) -> Option<&'static str> {
    Some(match variable.strip_prefix("${")?.strip_suffix('}')? {
        "VM_NAME" => "{{ name }}",
        "VM_DUR" => "{{ duration }}",
        "VM_MAILBOX" => "{{ number }}",
        "VM_DATE" => "{{ received }}",
        // The number of the latest message among the new ones is their count.
        "VM_MSGNUM" => "{{ new_messages }}",
        "VM_CIDNAME" => "{{ caller_name or \"an unknown caller\" }}",
        "VM_CIDNUM" => "{{ caller or \"an unknown caller\" }}",
        "VM_CALLERID" => {
            "{{ '\"' ~ caller_name ~ '\" <' ~ caller ~ '>' if caller_name and caller else \
             (caller_name or caller or \"an unknown caller\") }}"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_whose_variables_have_counterparts_are_converted() {
        let unknown = |words: &[&str]| Err(TextProblem::Unknown(words.iter().map(|w| (*w).to_owned()).collect()));
        for (text, expected) in [
            ("", Ok("")),
            (
                "New message ${VM_MSGNUM} in mailbox ${VM_MAILBOX}",
                Ok("New message {{ new_messages }} in mailbox {{ number }}"),
            ),
            ("Dear ${VM_NAME}:\n${VM_DUR}, ${VM_DATE}", Ok("Dear {{ name }}:\n{{ duration }}, {{ received }}")),
            ("5 $ for {x}", Ok("5 $ for {x}")),
            ("${VM_CIDNUM}", Ok("{{ caller or \"an unknown caller\" }}")),
            (
                "${VM_CALLERID}",
                Ok("{{ '\"' ~ caller_name ~ '\" <' ~ caller ~ '>' if caller_name and caller else \
                    (caller_name or caller or \"an unknown caller\") }}"),
            ),
            ("${VM_NAME} ${ORIG_VM_DATE} ${VM_CONTEXT}", unknown(&["${ORIG_VM_DATE}", "${VM_CONTEXT}"])),
            (
                "a ${IF($[\"${VM_CIDNUM}\" = \"1\"]?left:forwarded)} b",
                unknown(&["${IF($[\"${VM_CIDNUM}\" = \"1\"]?left:forwarded)}"]),
            ),
            ("$[1 + 1]", unknown(&["$[1 + 1]"])),
            ("${VM_NAME", Err(TextProblem::Open)),
            ("{{ name }}", Err(TextProblem::Braces)),
            ("{${VM_NAME}", Err(TextProblem::Braces)),
        ] {
            assert_eq!(template(text), expected.map(str::to_owned), "{text:?}");
        }
    }

    #[test]
    fn each_text_has_its_file_and_a_pager_no_subject() {
        let files = ["emailsubject", "emailbody", "pagerbody", "pagersubject"].map(file);
        assert_eq!(files, [Some("mail.subject"), Some("mail.txt"), Some("pager.txt"), None]);
    }
}
