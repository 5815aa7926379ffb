"""The built-in ladder: one tokenizer and the models pretrained with it, shipped in the package."""
