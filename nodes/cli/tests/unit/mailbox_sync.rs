//! Arguments of `mailbox-sync`.

use super::*;

#[test]
fn words_with_an_equals_sign_are_settings_and_a_mailbox_is_required() {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let split = numbers_and_settings(words(&["1001", "folder=Voicemail", "1002"])).expect("two mailboxes");
    assert_eq!(split, (words(&["1001", "1002"]), words(&["folder=Voicemail"])));
    assert!(matches!(numbers_and_settings(words(&["folder=Voicemail"])), Err(CliError::Usage(_))));
}

#[test]
fn runs_that_hold_back_or_fail_fail_the_command_and_name_the_remedy() {
    let reply = |outcome: &str| AccountRunReply { outcome: outcome.to_owned(), ..Default::default() };
    assert!(judged("1001", &reply("done")).is_ok());
    for (outcome, part) in [("held-back", "run 1001 --accept-deletions"), ("failed: no such host", "no such host")]
    {
        let error = judged("1001", &reply(outcome)).expect_err(outcome);
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn account_is_shown_with_its_last_error_and_the_numbers_of_its_messages() {
    let account = Account {
        number: "1001".to_owned(),
        state: "failing".to_owned(),
        error: "the password is wrong".to_owned(),
        failing_since_ms: 1,
        ..Default::default()
    };
    let messages = MessageStates { synced: 12, held: 3, ..Default::default() };
    let text = shown(AccountShowReply { account: Some(account), settings: Vec::new(), messages: Some(messages) });
    for part in ["1001", "failing since", "the password is wrong", "never", "12", "held back"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
