use super::*;

fn error(status: u16, reason: &str) -> CallError {
    CallError { status, reason: reason.to_owned(), headers: Vec::new() }
}

#[test]
fn only_200_to_the_bye_and_the_other_sides_bye_are_a_success() {
    let answered = |status| Ok(Some((status, Duration::ZERO)));
    assert!(check(&answered(200), Ok(())).is_ok() && check(&Ok(None), Ok(())).is_ok());
    for (bye, expected) in [
        (answered(500), "the BYE was answered 500: "),
        (Err(error(408, "no answer")), "the BYE was not answered ("),
    ] {
        let failed = check(&bye, Ok(())).expect_err("no message is known to be stored").to_string();
        assert!(failed.starts_with(expected) && failed.ends_with("a message was not acknowledged"), "{failed}");
    }
    let unsent = check(&answered(200), Err(error(488, "no telephone-events"))).expect_err("unsent");
    assert!(unsent.to_string().starts_with("digits were not sent: "), "{unsent}");
}
