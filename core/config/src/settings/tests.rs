use super::*;

#[test]
fn every_setting_is_complete_and_named_once() {
    for (table, at, setting) in [SETTINGS, REQUESTS]
        .iter()
        .flat_map(|table| table.iter().enumerate().map(move |(at, setting)| (table, at, setting)))
    {
        assert!(table[..at].iter().all(|other| other.flag != setting.flag), "{} twice", setting.flag);
        assert!(!setting.summary.is_empty() && !setting.detail.is_empty(), "{}", setting.flag);
        assert!(setting.summary.len() <= 80, "{}: the summary must fit a line of help", setting.flag);
        assert_eq!(setting.value_name.is_empty(), setting.kind == Kind::Switch, "{}", setting.flag);
        assert!(
            setting.default.is_some() == setting.default_note.is_empty(),
            "{}: one default",
            setting.flag
        );
        assert!(!setting.commands.is_empty());
    }
}

#[test]
fn demo_brings_its_own_origin() {
    assert!(settings_of("demo").all(|setting| setting.flag != "origin"));
    assert!(settings_of("serve").any(|setting| setting.flag == "origin"));
    assert!(settings_of("check").any(|setting| setting.flag == "origin"));
    assert!(setting("no-such-flag").is_none());
}

#[test]
fn the_parts_of_the_table_are_all_in_it() {
    assert_eq!(SETTINGS.len(), PARTS.iter().map(|part| part.len()).sum::<usize>());
    assert!(SETTINGS.iter().all(|setting| !setting.flag.is_empty()));
    let order = ["origin", "cores", "disk", "semantics", "connect-timeout", "request-body-max"];
    let places = order.map(|flag| SETTINGS.iter().position(|setting| setting.flag == flag));
    assert!(places.is_sorted() && places.iter().all(Option::is_some), "{places:?}");
}
