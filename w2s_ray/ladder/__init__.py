"""The built-in ladder: one tokenizer and the models pretrained with it, published inside the package."""
