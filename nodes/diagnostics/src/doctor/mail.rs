//! Findings about mail in.

use super::findings::Finding;

/// Finding if a node that takes mail (`takes_mail`) has no mailbox for that to postmaster (`no_postmaster`).
pub fn postmaster(takes_mail: bool, no_postmaster: bool) -> Option<Finding> {
    (takes_mail && no_postmaster).then(|| {
        Finding::new(
            "settings",
            "[mail.in] takes mail, and no mailbox has the alias postmaster: mail to postmaster, which other mail servers \
             expect to be taken, is refused or thrown away",
            "give a mailbox that alias, with those that it has: 'twinbox user set NUMBER --alias postmaster'",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_that_takes_mail_needs_a_mailbox_for_postmaster() {
        for (takes_mail, no_postmaster) in [(false, false), (false, true), (true, false)] {
            assert_eq!(postmaster(takes_mail, no_postmaster), None);
        }
        let found = postmaster(true, true).expect("a finding");
        assert_eq!(found.area, "settings");
        assert!(found.remedy.contains("user set NUMBER --alias postmaster"), "{found:?}");
    }
}
