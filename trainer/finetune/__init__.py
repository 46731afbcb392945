"""Fine-tuning: LoRA and QLoRA adapters by DPO or SFT, from recipes, resumable, chosen by what they answer."""
