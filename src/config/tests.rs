//! Tests of the configuration file.

use super::*;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("site.toml")).map_err(|e| e.to_string())
}

#[test]
fn an_empty_file_is_the_defaults() {
    assert_eq!(parse(""), Ok(Config::default()));
}

#[test]
fn every_default_printed_parses_back() {
    for setting in SETTINGS {
        let Some(text) = setting.default_text() else {
            continue;
        };
        // Away from the default first, so that reading it back shows.
        let mut config = Config {
            hold: Duration::from_secs(1),
            recall_timeout: Some(Duration::from_secs(1)),
            min_residency: Duration::from_secs(1),
            release_min_size: 1,
            aggregate_size: 1,
            index_cache_size: 2,
            ..Config::default()
        };
        (setting.set)(&mut config, &text).expect(setting.key);
        assert_eq!((setting.get)(&config), Some(text), "{}", setting.key);
    }
    assert_eq!(parse(&Config::default().print()), Ok(Config::default()));
}

#[test]
fn all_settings_print_and_parse_back() {
    let text = r#"
        backing = "/srv/data \"x\""
        mount = "/data"
        state = '/var/lib/cairn'
        policy = "/etc/cairn/site.policy"
        hold = "1 min"
        recall-timeout = "10 min"
        min-residency = "2h"
        implicit-recalls-per-user = 7
        release-min-size = 131072
        aggregate-size = "512MiB"
        keep-deleted = "1 week"
        emergency-mark = "95%"
        ballast-size = "1MiB"
        tier.near.url = "dir:/near"
        [workers]
        archive = 3
        stage = 8
        [tier.cold]
        url = "dir:/cold?rate=100MB/s"
        [tier.another]
        url = "dir:/another"
        [tier.cold.prices]
        currency = "USD"
        restore-request = 0.00005
        restore-gb = "0.02"
        stored-gb-month = 1
        read-gb = "0"
    "#;
    let config = parse(text).expect("good");
    assert_eq!(config.hold, Duration::from_secs(60));
    assert_eq!(config.recall_timeout, Some(Duration::from_secs(600)));
    assert_eq!(config.release_min_size, 131_072);
    assert_eq!(config.emergency_mark.of(1000), 950);
    assert_eq!(config.workers.stage.get(), 8);
    assert_eq!(config.workers.verify, Config::default().workers.verify);
    let names: Vec<_> = config.tiers.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(
        names,
        ["near", "cold", "another"],
        "in the order of the file"
    );
    let prices = config.tiers[1].prices.as_ref().expect("prices");
    assert_eq!(
        (prices.restore_request.nanos(), prices.restore_gb.nanos()),
        (50_000, 20_000_000)
    );
    assert_eq!(prices.stored_gb_month.to_string(), "1.00");
    assert_eq!(config.tiers[0].prices, None, "none are built in");
    assert_eq!(parse(&config.print()), Ok(config));
}

#[test]
fn complaints_name_file_line_and_the_nearest_key() {
    for (text, says) in [
        (
            "\nbakcing = '/x'",
            "site.toml:2: unknown key \"bakcing\"; did you mean \"backing\"?",
        ),
        ("min_residency = '1h'", "did you mean \"min-residency\"?"),
        ("[worker]\nstage = 1", "did you mean \"workers\"?"),
        (
            "[workers]\n\nstge = 1",
            "site.toml:3: unknown key \"workers.stge\"; did you mean \"workers.stage\"?",
        ),
        (
            "[tier.cold]\nulr = 'dir:/x'",
            "site.toml:2: tier \"cold\": unknown key \"ulr\"; did you mean \"url\"?",
        ),
        ("[tier.cold]\n", "site.toml:1: tier \"cold\" has no url"),
        (
            "[tier.cold]\nurl = 'dir:/x'\nprice = 1",
            "site.toml:3: tier \"cold\": unknown key \"price\"; did you mean \"prices\"?",
        ),
        ("tier = 'dir:/x'", "write [tier.NAME]"),
        ("[tier.'a b']\nurl = 'dir:/x'", "a name is letters"),
        ("[[tier.a]]\nurl = 'dir:/x'", "write [tier.NAME]"),
        ("backing = 'x'", "absolute"),
        ("backing = true", "wanted text or a number, found boolean"),
        ("workers = 3", "unknown key \"workers\""),
        (
            "\n\nrecall-timeout = '10'",
            "site.toml:3: recall-timeout: \"10\" is not a duration: it needs a unit",
        ),
        ("recall-timeout = 0", "write \"none\""),
        ("aggregate-size = 0", "more than 0"),
        ("ballast-size = -1", "is not a size"),
        ("emergency-mark = '0%'", "percentage"),
        ("emergency-mark = 97", "percentage"),
        ("workers.stage = 0", "from 1 to"),
        ("mount = '/a'\nmount = '/b'", "site.toml:2: duplicate key"),
        ("mount = ", "site.toml:1: "),
        ("= = =", "site.toml:1: "),
    ] {
        let error = parse(text).expect_err(text);
        assert!(error.contains(says), "{text:?}\n gave {error}\n not {says}");
    }
}

#[test]
fn complaints_about_prices_name_the_line_and_the_way_out() {
    for (text, says) in [
        (
            "currency = 'USD'\nrestore_gb = 1",
            "site.toml:4: tier \"cold\": prices: unknown key \"restore_gb\"; did you mean \"restore-gb\"?",
        ),
        (
            "read-gb = 1",
            "site.toml:2: tier \"cold\": prices need a currency",
        ),
        ("currency = ''", "is no currency"),
        ("currency = 'US dollars'", "is no currency"),
        ("currency = 1", "currency: wanted text, found integer"),
        (
            "currency = 'USD'\nread-gb = -0.1",
            "site.toml:4: tier \"cold\": read-gb: \"-0.1\" is no price: write a decimal number",
        ),
        ("currency = 'USD'\nread-gb = 5e-5", "write a decimal number"),
        ("currency = 'USD'\nread-gb = nan", "write a decimal number"),
        (
            "currency = 'USD'\nread-gb = 0x10",
            "wanted a decimal number, found integer",
        ),
        (
            "currency = 'USD'\nread-gb = true",
            "wanted a decimal number, found boolean",
        ),
        (
            "currency = 'USD'\nread-gb = '0.0000000001'",
            "more than nine decimals",
        ),
    ] {
        let text = format!("tier.cold.url = 'dir:/x'\n[tier.cold.prices]\n{text}");
        let error = parse(&text).expect_err(&text);
        assert!(error.contains(says), "{text:?}\n gave {error}\n not {says}");
    }
    let error = parse("[tier.cold]\nurl = 'dir:/x'\nprices = 3").expect_err("no table");
    assert!(error.contains("write [tier.cold.prices]"), "{error}");
}

#[test]
fn a_missing_or_endless_file_is_an_error() {
    let missing = Config::load(Path::new("/nonexistent/site.toml"));
    assert!(matches!(missing, Err(ConfigError::Read { .. })));
    let endless = Config::load(Path::new("/dev/zero")).expect_err("endless");
    assert!(endless.to_string().contains("longer than"), "{endless}");
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text: String) {
        let _ = parse(&text);
    }
}

#[test]
fn settings_that_do_nothing_yet_are_told_only_when_they_are_set() {
    assert_eq!(Config::default().without_effect(), [""; 0]);
    let set = parse("keep-deleted = \"1d\"\nworkers.stage = 9\nballast-size = 0").expect("good");
    assert_eq!(set.without_effect(), ["workers.stage"]);
}
