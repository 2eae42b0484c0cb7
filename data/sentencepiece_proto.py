"""The file format of a SentencePiece model, as a protobuf message of the fields that we read.

The module that comes with sentencepiece 0.2.3 refuses every protobuf older than the one it was made
with, and Apache Beam is not there yet. What is not named here is kept as it is by protobuf itself.
Source: sentencepiece_model.proto of google/sentencepiece (field names and numbers).
"""

import functools
from typing import Any

_STRING, _BYTES, _BOOL, _INT32, _FLOAT, _ENUM, _MESSAGE = 9, 12, 8, 5, 2, 14, 11
_OPTIONAL, _REPEATED = 1, 3
_PACKAGE = "lectern.sentencepiece"

# message: fields (name, number, type, label, default or type name)
_MESSAGES = {
    "NormalizerSpec": [
        ("name", 1, _STRING, _OPTIONAL, ""),
        ("precompiled_charsmap", 2, _BYTES, _OPTIONAL, ""),
        ("add_dummy_prefix", 3, _BOOL, _OPTIONAL, "true"),
        ("remove_extra_whitespaces", 4, _BOOL, _OPTIONAL, "true"),
        ("escape_whitespaces", 5, _BOOL, _OPTIONAL, "true"),
    ],
    "TrainerSpec": [
        ("model_type", 3, _ENUM, _OPTIONAL, "ModelType"),
        ("treat_whitespace_as_suffix", 24, _BOOL, _OPTIONAL, "false"),
        ("byte_fallback", 35, _BOOL, _OPTIONAL, "false"),
        ("unk_id", 40, _INT32, _OPTIONAL, "0"),
    ],
    "SentencePiece": [
        ("piece", 1, _STRING, _OPTIONAL, ""),
        ("score", 2, _FLOAT, _OPTIONAL, ""),
        ("type", 3, _ENUM, _OPTIONAL, "Type"),
    ],
    "ModelProto": [
        ("pieces", 1, _MESSAGE, _REPEATED, "SentencePiece"),
        ("trainer_spec", 2, _MESSAGE, _OPTIONAL, "TrainerSpec"),
        ("normalizer_spec", 3, _MESSAGE, _OPTIONAL, "NormalizerSpec"),
    ],
}
_ENUMS = {
    "TrainerSpec": ("ModelType", {"UNIGRAM": 1, "BPE": 2, "WORD": 3, "CHAR": 4}),
    "SentencePiece": (
        "Type",
        {"NORMAL": 1, "UNKNOWN": 2, "CONTROL": 3, "USER_DEFINED": 4, "UNUSED": 5, "BYTE": 6},
    ),
}


def parse(model: bytes) -> Any:
    """The `ModelProto` in the bytes of a `.model` file."""
    return _model_proto().FromString(model)


@functools.cache
def _model_proto() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(
        name="lectern/sentencepiece_model.proto", package=_PACKAGE, syntax="proto2"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, type_, label, rest in fields:
            field = message.field.add(name=field_name, number=number, type=type_, label=label)
            if type_ == _MESSAGE:
                field.type_name = f".{_PACKAGE}.{rest}"
            elif type_ == _ENUM:
                field.type_name = f".{_PACKAGE}.{name}.{rest}"
            elif rest:
                field.default_value = rest
        if name in _ENUMS:
            enum_name, values = _ENUMS[name]
            enum = message.enum_type.add(name=enum_name)
            for value, number in values.items():
                enum.value.add(name=value, number=number)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    descriptor = pool.FindMessageTypeByName(f"{_PACKAGE}.ModelProto")
    return message_factory.GetMessageClass(descriptor)
