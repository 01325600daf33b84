//! The configuration file: TOML with places, so that every complaint names its line.

use super::{Config, ConfigError, Prices, SETTINGS, Setting, TierSetting, hint};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub(super) fn load(path: &Path) -> Result<Config, ConfigError> {
    let read = |source| ConfigError::Read {
        file: path.to_owned(),
        source,
    };
    let mut text = String::new();
    let file = File::open(path).map_err(read)?;
    file.take(Config::LONGEST + 1)
        .read_to_string(&mut text)
        .map_err(read)?;
    if text.len() as u64 > Config::LONGEST {
        let why = format!("longer than {} bytes", Config::LONGEST);
        return Err(read(std::io::Error::other(why)));
    }
    parse(&text, path)
}

pub(super) fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
    let complain = |Complaint { at, why }: Complaint| ConfigError::Text {
        file: path.to_owned(),
        line: 1 + text.bytes().take(at).filter(|b| *b == b'\n').count(),
        why,
    };
    let root = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let why = error.message().to_owned();
        complain(Complaint { at, why })
    })?;
    let mut config = Config::default();
    read_table(&mut config, root.get_ref(), "").map_err(complain)?;
    Ok(config)
}

struct Complaint {
    /// Byte within the text.
    at: usize,
    why: String,
}

fn complaint(span: Range<usize>, why: String) -> Complaint {
    Complaint {
        at: span.start,
        why,
    }
}

/// Reads the settings below `prefix`: nothing, or a table's name and a dot.
fn read_table(config: &mut Config, table: &DeTable<'_>, prefix: &str) -> Result<(), Complaint> {
    // Complaints come in the order of the file.
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in entries {
        let name = format!("{prefix}{}", key.get_ref());
        if name == "tier" {
            config.tiers = read_tiers(value)?;
        } else if let Some(setting) = SETTINGS.iter().find(|s| s.key == name) {
            read_value(config, setting, value)?;
        } else if let Some(inner) = table_of(&name, value) {
            read_table(config, inner, &format!("{name}."))?;
        } else {
            let why = format!("unknown key {name:?}{}", hint(&name, &known(prefix)));
            return Err(complaint(key.span(), why));
        }
    }
    Ok(())
}

/// The value as a table, if some setting's key begins with `name` and a dot.
fn table_of<'v, 't>(name: &str, value: &'v Spanned<DeValue<'t>>) -> Option<&'v DeTable<'t>> {
    let known = SETTINGS.iter().any(|s| {
        s.key
            .split_once('.')
            .is_some_and(|(table, _)| table == name)
    });
    if known {
        value.get_ref().as_table()
    } else {
        None
    }
}

/// What may stand below `prefix`.
fn known(prefix: &str) -> Vec<&'static str> {
    let mut keys = BTreeSet::new();
    if prefix.is_empty() {
        keys.insert("tier");
    }
    for setting in SETTINGS {
        match setting.key.split_once('.') {
            Some((table, _)) if prefix.is_empty() => keys.insert(table),
            _ if setting.key.starts_with(prefix) => keys.insert(setting.key),
            _ => false,
        };
    }
    keys.into_iter().collect()
}

fn read_value(
    config: &mut Config,
    setting: &Setting,
    value: &Spanned<DeValue<'_>>,
) -> Result<(), Complaint> {
    let text = match value.get_ref() {
        DeValue::String(text) => text,
        DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
        DeValue::Boolean(yes) if is_yes_or_no(config, setting) => match yes {
            true => "true",
            false => "false",
        },
        other => {
            let why = format!(
                "{}: wanted text or a number, found {}",
                setting.key,
                other.type_str()
            );
            return Err(complaint(value.span(), why));
        }
    };
    (setting.set)(config, text)
        .map_err(|why| complaint(value.span(), format!("{}: {why}", setting.key)))
}

/// Is its value, the default as any other, true or false?
fn is_yes_or_no(config: &Config, setting: &Setting) -> bool {
    matches!((setting.get)(config).as_deref(), Some("true" | "false"))
}

fn read_tiers(value: &Spanned<DeValue<'_>>) -> Result<Vec<TierSetting>, Complaint> {
    const SHAPE: &str = "write [tier.NAME] and below it url = \"dir:/path\"";
    let Some(table) = value.get_ref().as_table() else {
        return Err(complaint(value.span(), format!("tier: {SHAPE}")));
    };
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let mut tiers = Vec::new();
    for (key, value) in entries {
        let name = key.get_ref();
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if name.is_empty() || !name.chars().all(fits) {
            let why = format!("tier {name:?}: a name is letters, digits, - and _");
            return Err(complaint(key.span(), why));
        }
        let Some(table) = value.get_ref().as_table() else {
            return Err(complaint(value.span(), format!("tier {name:?}: {SHAPE}")));
        };
        let (mut url, mut prices) = (None, None);
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "url" => url = value.get_ref().as_str().map(str::to_owned),
                "prices" => prices = Some(read_prices(name, key.span(), value)?),
                other => {
                    let hint = hint(other, &["url", "prices"]);
                    let why = format!("tier {name:?}: unknown key {other:?}{hint}");
                    return Err(complaint(key.span(), why));
                }
            }
        }
        let Some(url) = url else {
            return Err(complaint(
                key.span(),
                format!("tier {name:?} has no url: {SHAPE}"),
            ));
        };
        tiers.push(TierSetting {
            name: name.clone().into_owned(),
            url,
            prices,
        });
    }
    Ok(tiers)
}

/// `[tier.NAME.prices]`; `at` is where it begins.
fn read_prices(
    tier: &str,
    at: Range<usize>,
    value: &Spanned<DeValue<'_>>,
) -> Result<Prices, Complaint> {
    let Some(table) = value.get_ref().as_table() else {
        let why = format!(
            "tier {tier:?}: write [tier.{tier}.prices] and below it currency = \"USD\" and prices"
        );
        return Err(complaint(value.span(), why));
    };
    let mut prices = Prices::default();
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in entries {
        let name = key.get_ref().as_ref();
        let wrong = |why: String| complaint(value.span(), format!("tier {tier:?}: {name}: {why}"));
        let price = Prices::ENTRIES.iter().find(|(known, _)| *known == name);
        match (value.get_ref(), price) {
            (_, None) if name != Prices::CURRENCY => {
                let hint = hint(name, &Prices::keys());
                let why = format!("tier {tier:?}: prices: unknown key {name:?}{hint}");
                return Err(complaint(key.span(), why));
            }
            (DeValue::String(text), None) => prices.name(text).map_err(wrong)?,
            (other, None) => {
                return Err(wrong(format!("wanted text, found {}", other.type_str())));
            }
            (DeValue::String(text), Some((_, of))) => {
                *of(&mut prices) = text.parse().map_err(wrong)?;
            }
            (DeValue::Float(number), Some((_, of))) => {
                *of(&mut prices) = number.as_str().parse().map_err(wrong)?;
            }
            (DeValue::Integer(number), Some((_, of))) if number.radix() == 10 => {
                *of(&mut prices) = number.as_str().parse().map_err(wrong)?;
            }
            (other, Some(_)) => {
                let found = other.type_str();
                return Err(wrong(format!("wanted a decimal number, found {found}")));
            }
        }
    }
    if prices.currency.is_empty() {
        let why = format!("tier {tier:?}: prices need a currency: write currency = \"USD\"");
        return Err(complaint(at, why));
    }
    Ok(prices)
}

pub(super) fn print(config: &Config) -> String {
    let mut text = String::new();
    let mut table = "";
    // Writing into a String cannot fail.
    for setting in SETTINGS {
        let (above, key) = setting.key.rsplit_once('.').unwrap_or(("", setting.key));
        let Some(value) = (setting.get)(config) else {
            continue;
        };
        if above != table {
            table = above;
            let _ = writeln!(text, "\n[{table}]");
        }
        let _ = writeln!(text, "# {}\n{key} = {}", setting.meaning, quoted(&value));
    }
    for tier in &config.tiers {
        let _ = writeln!(text, "\n[tier.{}]\nurl = {}", tier.name, quoted(&tier.url));
        let Some(prices) = &tier.prices else {
            continue;
        };
        let currency = quoted(&prices.currency);
        let _ = writeln!(text, "\n[tier.{}.prices]\ncurrency = {currency}", tier.name);
        for (key, price) in prices.told() {
            let _ = writeln!(text, "{key} = \"{price}\"");
        }
    }
    text
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
