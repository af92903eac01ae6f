//! The prompts by name: Asterisk's names and folders where Asterisk has the phrase, so that any prompt set made for
//! Asterisk fits. Other prompts are under `twinbox/`.

macro_rules! prompts {
    ($($name:ident = $file:literal;)*) => {
        $(pub(crate) const $name: &str = $file;)*

        /// All of the names above.
        pub(crate) const ALL: &[&str] = &[$($file),*];
    };
}

prompts! {
    // Leaving a message
    THE_PERSON = "vm-theperson";
    IS_UNAVAILABLE = "vm-isunavail";
    IS_ON_PHONE = "vm-isonphone";
    INTRO = "vm-intro";
    MAILBOX_FULL = "vm-mailboxfull";
    TOO_SHORT = "vm-tooshort";
    MESSAGE_SAVED = "vm-msgsaved";
    CUT = "twinbox/recording-cut";
    NOT_SAVED = "twinbox/not-saved";
    NO_OPERATOR = "twinbox/no-operator";
    NO_SUCH_MAILBOX = "twinbox/no-such-mailbox";
    GOODBYE = "vm-goodbye";

    // Signing in
    LOGIN = "vm-login";
    PASSWORD = "vm-password";
    INCORRECT_PIN = "vm-incorrect";
    INCORRECT_MAILBOX = "vm-incorrect-mailbox";
    SIGN_IN_FAILED = "twinbox/sign-in-failed";
    BACK_OFF = "twinbox/back-off";
    TRY_LATER = "twinbox/try-later";
    NOT_WORKING = "twinbox/not-working";
    MUST_CHANGE = "twinbox/must-change-pin";
    NEW_PIN = "vm-newpassword";
    NEW_PIN_AGAIN = "vm-reenterpassword";
    PIN_MISMATCH = "vm-mismatch";
    PIN_REFUSED = "vm-invalid-password";
    PIN_TOO_SHORT = "twinbox/pin-too-short";
    DIGITS = "twinbox/digits";
    PIN_CHANGED = "vm-passchanged";

    // Counting
    YOU_HAVE = "vm-youhave";
    NO = "vm-no";
    NEW = "vm-INBOX";
    OLD = "vm-Old";
    AND = "vm-and";
    MESSAGE = "vm-message";
    MESSAGES = "vm-messages";
    FIRST = "vm-first";
    LAST = "vm-last";
    SECOND = "second";
    SECONDS = "seconds";
    MINUTE = "minute";
    MINUTES = "minutes";

    // One message
    RECEIVED = "vm-received";
    FROM_EXTENSION = "vm-from-extension";
    FROM_PHONE_NUMBER = "vm-from-phonenumber";
    UNKNOWN_CALLER = "vm-unknown-caller";
    PARTIAL = "twinbox/partial-message";
    DELETED = "vm-deleted";
    UNDELETED = "vm-undeleted";
    SAVED = "vm-saved";
    NO_MORE = "vm-nomore";
    SORRY = "vm-sorry";
    FAILED = "twinbox/failed";

    // A message that came back
    YOUR_MESSAGE_TO = "twinbox/your-message-to";
    NOT_DELIVERED = "twinbox/not-delivered";
    NUMBER_UNKNOWN_THERE = "twinbox/number-unknown-there";
    MAILBOX_FULL_THERE = "twinbox/mailbox-full-there";
    SYSTEM_UNREACHABLE = "twinbox/system-unreachable";
    DELIVERY_REFUSED = "twinbox/delivery-refused";
    MESSAGE_FOLLOWS = "twinbox/message-follows";

    // Greetings and name
    RECORD_STANDARD = "vm-rec-unv";
    RECORD_BUSY = "vm-rec-busy";
    RECORD_NAME = "vm-rec-name";
    RECORD_TEMPORARY = "vm-rec-temp";
    TEMPORARY_ACTIVE = "vm-tempgreetactive";
    TEMPORARY_REMOVED = "vm-tempremoved";

    // Announcements of keys, in Asterisk's words
    ONE_FOR = "vm-onefor";
    OPTIONS = "vm-opts";
    HELP_OR_EXIT = "vm-helpexit";
    KEY_PREVIOUS = "vm-prev";
    KEY_ADVANCED = "vm-advopts";
    KEY_REPEAT = "vm-repeat";
    KEY_NEXT = "vm-next";
    KEY_DELETE = "vm-delete";
    KEY_UNDELETE = "vm-undelete";
    KEY_SAVE = "vm-savemessage";
    KEY_ENVELOPE = "vm-tohearenv";
    CHANGE_TO = "vm-changeto";
    PRESS = "vm-press";
    FOR = "vm-for";
    OR_POUND_TO_CANCEL = "vm-tocancel";
    MAILBOX_OPTIONS = "vm-options";
    TEMPORARY_OPTIONS = "vm-tempgreeting2";
    REVIEW = "vm-review";
    STAR_TO_CANCEL = "vm-star-cancel";

    // Announcements of keys, one phrase per action: follows "press" and the key
    TO_HEAR_NEW = "twinbox/to-hear-new";
    TO_HEAR_OLD = "twinbox/to-hear-old";
    TO_SET_UP = "twinbox/to-set-up";
    FOR_HELP = "twinbox/for-help";
    TO_EXIT = "twinbox/to-exit";
    TO_GO_BACK = "twinbox/to-go-back";
    TO_REPEAT = "twinbox/to-repeat";
    TO_SAVE = "twinbox/to-save";
    TO_DELETE = "twinbox/to-delete";
    TO_UNDELETE = "twinbox/to-undelete";
    TO_GO_TO_PREVIOUS = "twinbox/to-go-to-previous";
    TO_SKIP = "twinbox/to-skip";
    TO_SKIP_TO_END = "twinbox/to-skip-to-end";
    TO_HEAR_ENVELOPE = "twinbox/to-hear-envelope";
    TO_RETURN_TO_MAIN = "twinbox/to-return-to-main";
    TO_CHANGE_GREETINGS = "twinbox/to-change-greetings";
    TO_CHANGE_PERSONAL = "twinbox/to-change-personal";
    TO_RECORD_STANDARD = "twinbox/to-record-standard";
    TO_RECORD_BUSY = "twinbox/to-record-busy";
    TO_RECORD_TEMPORARY = "twinbox/to-record-temporary";
    TO_RECORD_NAME = "twinbox/to-record-name";
    TO_CHANGE_PIN = "twinbox/to-change-pin";

    // Time
    TODAY = "digits/today";
    YESTERDAY = "digits/yesterday";
    AT = "digits/at";
    OCLOCK = "digits/oclock";
    OH = "digits/oh";
    AM = "digits/a-m";
    PM = "digits/p-m";

    // Numbers and keys
    HUNDRED = "digits/hundred";
    THOUSAND = "digits/thousand";
    MILLION = "digits/million";
    STAR = "digits/star";
    POUND = "digits/pound";
    KEY_0 = "digits/0";
    KEY_1 = "digits/1";
    KEY_2 = "digits/2";
    KEY_3 = "digits/3";
    KEY_4 = "digits/4";
    KEY_7 = "digits/7";
    KEY_9 = "digits/9";
}
