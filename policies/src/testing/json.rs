//! What serde is told, written as JSON with one field a line.

use serde::ser::*;
use std::fmt::{self, Display};

pub(crate) fn to_json(value: &impl Serialize) -> String {
    value.serialize(Writer(0)).unwrap()
}

#[derive(Debug)]
pub(crate) struct Refused(String);
impl Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for Refused {}
impl Error for Refused {
    fn custom<T: Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// Writes at this depth.
#[derive(Clone, Copy)]
struct Writer(usize);

struct Block {
    depth: usize,
    marks: [char; 2],
    parts: Vec<String>,
}

impl Block {
    fn new(writer: Writer, marks: [char; 2]) -> Self {
        let (depth, parts) = (writer.0, Vec::new());
        Self {
            depth,
            marks,
            parts,
        }
    }
    fn value(&self, value: &(impl Serialize + ?Sized)) -> Result<String, Refused> {
        value.serialize(Writer(self.depth + 1))
    }
    fn close(self) -> String {
        let [open, close] = self.marks;
        if self.parts.is_empty() {
            return format!("{open}{close}");
        }
        let margin = "  ".repeat(self.depth);
        let parts: Vec<String> = self
            .parts
            .iter()
            .map(|p| format!("{margin}  {p}"))
            .collect();
        format!("{open}\n{}\n{margin}{close}", parts.join(",\n"))
    }
}

impl SerializeSeq for Block {
    type Ok = String;
    type Error = Refused;
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        self.parts.push(self.value(value)?);
        Ok(())
    }
    fn end(self) -> Result<String, Refused> {
        Ok(self.close())
    }
}

impl SerializeStruct for Block {
    type Ok = String;
    type Error = Refused;
    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        self.parts.push(format!("{key:?}: {}", self.value(value)?));
        Ok(())
    }
    fn end(self) -> Result<String, Refused> {
        Ok(self.close())
    }
}

impl SerializeMap for Block {
    type Ok = String;
    type Error = Refused;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Refused> {
        self.parts.push(self.value(key)?);
        Ok(())
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        let key = self.parts.pop().unwrap();
        self.parts.push(format!("{key}: {}", self.value(value)?));
        Ok(())
    }
    fn end(self) -> Result<String, Refused> {
        Ok(self.close())
    }
}

type No = Impossible<String, Refused>;

fn no<T>(what: &str) -> Result<T, Refused> {
    Err(Refused(format!("a plan has no {what}")))
}

macro_rules! plain {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(self, value: $type) -> Result<String, Refused> { Ok(value.to_string()) })*
    };
}

impl Serializer for Writer {
    type Ok = String;
    type Error = Refused;
    type SerializeSeq = Block;
    type SerializeTuple = No;
    type SerializeTupleStruct = No;
    type SerializeTupleVariant = No;
    type SerializeMap = Block;
    type SerializeStruct = Block;
    type SerializeStructVariant = No;
    plain!(serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32,
        serialize_i64: i64, serialize_u8: u8, serialize_u16: u16, serialize_u32: u32,
        serialize_u64: u64, serialize_f32: f32);
    fn serialize_f64(self, value: f64) -> Result<String, Refused> {
        Ok(format!("{value:?}"))
    }
    fn serialize_char(self, value: char) -> Result<String, Refused> {
        self.serialize_str(&value.to_string())
    }
    fn serialize_str(self, value: &str) -> Result<String, Refused> {
        Ok(format!(
            "\"{}\"",
            value.replace('\\', "\\\\").replace('"', "\\\"")
        ))
    }
    fn serialize_bytes(self, _: &[u8]) -> Result<String, Refused> {
        no("bytes")
    }
    fn serialize_none(self) -> Result<String, Refused> {
        Ok("null".to_owned())
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<String, Refused> {
        value.serialize(self)
    }
    fn serialize_unit(self) -> Result<String, Refused> {
        self.serialize_none()
    }
    fn serialize_unit_struct(self, _: &'static str) -> Result<String, Refused> {
        self.serialize_none()
    }
    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<String, Refused> {
        self.serialize_str(variant)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<String, Refused> {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<String, Refused> {
        no("newtype variants")
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<Block, Refused> {
        Ok(Block::new(self, ['[', ']']))
    }
    fn serialize_tuple(self, _: usize) -> Result<No, Refused> {
        no("tuples")
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<No, Refused> {
        no("tuple structs")
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<No, Refused> {
        no("tuple variants")
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Block, Refused> {
        Ok(Block::new(self, ['{', '}']))
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Block, Refused> {
        Ok(Block::new(self, ['{', '}']))
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<No, Refused> {
        no("untagged struct variants")
    }
}
